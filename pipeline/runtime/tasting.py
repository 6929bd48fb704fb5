"""The taster: a spare worker that suspects are tried on, one at a time, so that none takes the service down."""

import asyncio

from pipeline.core.names import Role
from pipeline.runtime import detectors
from pipeline.runtime.crew import Crew, Worker
from pipeline.runtime.flights import Flight, Flights
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.procfs import ProcessSample, waited_ms
from pipeline.runtime.request import TASTER_REPLICA
from pipeline.runtime.settings import Settings

IDLE_S = 5.0


class Taster:
    """At most one taster; it is started for the first suspect and ends when none came for a while."""

    def __init__(self, crew: Crew, flights: Flights, settings: Settings) -> None:
        self._crew = crew
        self._flights = flights
        self._settings = settings
        self._worker: Worker | None = None
        self._suspect: Flight | None = None
        self._given: tuple[float, ProcessSample] | None = None  # when the worker got the suspect, and how it stood then
        self._started = 0
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Tell whether a suspect can be tried now."""
        return self._suspect is None

    def taste(self, flight: Flight, role: Role) -> None:
        """Try one suspect, on a worker with the bundle of ``role``."""
        self._suspect, self._given = flight, None
        flight.future.add_done_callback(lambda _: self._done(flight))
        self._stay()
        if self._worker is not None and not self._worker.closing and self._worker.seat.role is role:
            if self._worker.usable:  # else it is being started, and gets the suspect when it is ready
                self._give(self._worker)
            return
        self._dismiss()
        self._started += 1
        self._worker = self._crew.start(Seat(role, TASTER_REPLICA), self._started, then_load=True, as_member=False)

    def ready(self, worker: Worker) -> None:
        """Give a taster that has just become ready the suspect that waits for it."""
        if worker is self._worker:
            self._give(worker)

    def _give(self, worker: Worker) -> None:
        if self._suspect is not None:
            self._flights.give(self._suspect, worker, worker.seat, worker.incarnation)

    def spoke(self) -> None:
        """Take that the taster answered its suspect, which may ask for one of the other side now."""
        self._suspect = None

    def judge(self, now_ms: float) -> None:
        """End a taster that hangs at its suspect, which is poison then; a stopped one is not the suspect's doing."""
        worker = self._worker
        found = None if worker is None or self._suspect is None else worker.look()
        if worker is None or found is None:
            self._given = None
            return
        fault = Fault.STOPPED if found.is_stopped else self._overdue(worker, found, now_ms)
        if fault in (Fault.HANG, Fault.STOPPED):
            self._give_up(worker, fault is Fault.HANG)

    def _overdue(self, worker: Worker, found: ProcessSample, now_ms: float) -> Fault | None:
        if not worker.sent_ms:
            return None
        if self._given is None:
            self._given = now_ms, found
        since_ms, then = self._given
        age_ms = now_ms - since_ms
        return detectors.overdue(age_ms, waited_ms(then, found, age_ms), found.state, self._settings)

    def _give_up(self, worker: Worker, is_poison: bool) -> None:
        ids, worker.sent_ms = list(worker.sent_ms), {}
        suspect, self._suspect = self._suspect, None  # it may ask for another taster
        self._dismiss()
        if ids:
            self._flights.lost(ids, suspect=is_poison)
        elif suspect is not None:
            self._flights.give(suspect, None, worker.seat, worker.incarnation)

    def gone(self, worker: Worker) -> None:
        """Take that a taster could not start, or ended before it had the suspect: the suspect loses its taster."""
        if worker is not self._worker:
            return
        self._worker = None
        suspect, self._suspect = self._suspect, None  # it may ask for another one
        if suspect is not None and not worker.sent_ms and not suspect.future.done():
            self._flights.give(suspect, None, worker.seat, worker.incarnation)

    def _done(self, flight: Flight) -> None:
        """Take that a suspect was answered, refused or given up, so that the next can be tried."""
        if self._suspect not in (flight, None):
            return
        self._suspect = None
        if self._worker is not None and self._worker.sent_ms:  # it still computes what nobody waits for
            self._dismiss()
        self._stay()
        self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.close)
        self._flights.members_changed()

    def _stay(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _dismiss(self) -> None:
        self._given = None
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    def close(self) -> None:
        """End the taster."""
        self._stay()
        self._dismiss()
