"""The taster: a spare worker that suspects are tried on, one at a time, so that none takes the service down."""

import asyncio

from pipeline.core.names import Role
from pipeline.runtime.crew import Crew, Worker
from pipeline.runtime.flights import Flight, Flights
from pipeline.runtime.members import Seat
from pipeline.runtime.request import TASTER_REPLICA

IDLE_S = 5.0


class Taster:
    """At most one taster; it is started for the first suspect and ends when none came for a while."""

    def __init__(self, crew: Crew, flights: Flights) -> None:
        self._crew = crew
        self._flights = flights
        self._worker: Worker | None = None
        self._suspect: Flight | None = None
        self._started = 0
        self._idle: asyncio.TimerHandle | None = None

    @property
    def is_free(self) -> bool:
        """Tell whether a suspect can be tried now."""
        return self._suspect is None

    def taste(self, flight: Flight, role: Role) -> None:
        """Try one suspect, on a worker with the bundle of ``role``."""
        self._suspect = flight
        flight.future.add_done_callback(lambda _: self._done(flight))
        if self._idle is not None:
            self._idle.cancel()
        if self._worker is not None and self._worker.usable and self._worker.seat.role is role:
            self._give(self._worker)
        elif self._worker is None or self._worker.closing or self._worker.seat.role is not role:
            self.close()
            self._started += 1
            self._worker = self._crew.start(Seat(role, TASTER_REPLICA), self._started, then_load=True, as_member=False)

    def ready(self, worker: Worker) -> None:
        """Give a taster that has just become ready the suspect that waits for it."""
        if worker is self._worker and self._suspect is not None:
            self._give(worker)

    def _give(self, worker: Worker) -> None:
        if self._suspect is not None:
            self._flights.give(self._suspect, worker, worker.seat, worker.incarnation)

    def gone(self, worker: Worker) -> None:
        """Take that a taster could not start, or ended before it had the suspect: the suspect loses its taster."""
        if worker is self._worker:
            self._worker = None
            suspect = self._suspect
            if suspect is not None and not worker.sent_ms and not suspect.future.done():
                self._flights.give(suspect, None, worker.seat, worker.incarnation)

    def free(self) -> None:
        """Take that the suspect was answered or is lost, so that the next can be tried."""
        self._suspect = None
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(IDLE_S, self.close)

    def _done(self, flight: Flight) -> None:
        if self._suspect is flight:
            self.free()
            self._flights.members_changed()

    def close(self) -> None:
        """End the taster."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
