"""The pair machine, live: takes events one after the other, and carries out what each one leads to."""

import asyncio
from collections import deque
from collections.abc import Callable

from pipeline.core.names import Role
from pipeline.runtime.crew import Crew, Worker
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.journal import Journal
from pipeline.runtime.members import Fault, MemberState, Seat
from pipeline.runtime.pair import first_state, is_calm, step
from pipeline.runtime.pair_nouns import (
    Action,
    Event,
    Load,
    Note,
    NoteKind,
    PairState,
    Serve,
    Start,
    Stop,
    Tick,
    Unserve,
)
from pipeline.runtime.settings import Settings
from pipeline.runtime.terms import Terms

_WRITE_AGAIN_MS = 1000
_COUNTED = {NoteKind.FAILOVER: "failovers", NoteKind.FAILBACK: "failbacks", NoteKind.RESTART: "restarts"}


class Conductor:
    """One pair's machine with its crew, its terms and its journal.

    ``give_back(worker)`` takes from a worker that is about to be killed what it will not answer; ``changed()`` is told
    when others than before can be asked.
    """

    def __init__(
        self, settings: Settings, crew: Crew, terms: Terms, journal: Journal,
        give_back: Callable[[Worker], None], changed: Callable[[], None],
    ) -> None:  # fmt: skip
        self._loop = asyncio.get_running_loop()
        self._crew = crew
        self._terms = terms
        self._journal = journal
        self._give_back = give_back
        self._changed = changed
        self.state: PairState
        self.state, self._first = first_state(settings, self._now_ms(), terms.last, terms.granted)
        self._events: deque[Event] = deque()
        self._is_pumping = False
        self._writing: asyncio.Task[None] | None = None
        self._write_again_ms = 0
        self._complained: tuple[int, Role | None, str] | None = None

    def _now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    def start(self) -> None:
        """Start the workers."""
        self._perform_all(self._first)

    def tell(self, event: Event) -> None:
        """Let the machine take an event, now; events that this causes wait their turn."""
        self._events.extend((event,) if isinstance(event, Tick) else (Tick(self._now_ms()), event))
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._events:
                self.state, actions = step(self.state, self._events.popleft())
                self._perform_all(actions)
        finally:
            self._is_pumping = False

    def tick(self) -> None:
        """Let time go on; while all is well it changes nothing, and whatever happens tells its own time."""
        if not is_calm(self.state):
            self.tell(Tick(self._now_ms()))
        if self.state.next_term is None and self._now_ms() >= self._write_again_ms:
            self._write_again_ms = self._now_ms() + _WRITE_AGAIN_MS
            self._write_soon()

    def is_whole(self) -> bool:
        """Tell whether the primary serves and everybody who is needed is ready."""
        needed = [member for member in self.state.members if self.state.needs(member.seat.role)]
        is_ready = all(member.state is MemberState.READY for member in needed)
        return is_ready and self.state.serving is Role.PRIMARY

    def is_settled(self) -> bool:
        """Tell whether somebody serves and nobody who is needed is out, or on its way."""
        away = (MemberState.DOWN, MemberState.STARTING, MemberState.QUARANTINED)
        needed = [member for member in self.state.members if self.state.needs(member.seat.role)]
        return self.state.serving is not None and not any(member.state in away for member in needed)

    def _perform_all(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            self._perform(action)
        if any(isinstance(action, Serve | Unserve | Start | Stop) for action in actions):
            self._changed()

    def _perform(self, action: Action) -> None:
        match action:
            case Start(seat, incarnation, then_load):
                self._crew.start(seat, incarnation, then_load)
            case Load(seat, incarnation):
                self._crew.load(seat, incarnation)
            case Stop(seat, incarnation, drain):
                self._stop(seat, incarnation, drain)
            case Serve(term=term):
                self._crew.tell_term(term)
                self._write_soon()
            case Unserve():
                self._write_soon()
            case Note(text, kind):
                self._note(text, kind)

    def _stop(self, seat: Seat, incarnation: int, drain: bool) -> None:
        worker = self._crew.of(seat, incarnation)
        if worker is not None and not drain and not worker.closing:  # of one that is lost, it must first be known how
            self._give_back(worker)
        self._crew.stop(seat, incarnation, drain)

    def _note(self, text: str, kind: NoteKind) -> None:
        if kind in _COUNTED:
            name = _COUNTED[kind]
            setattr(self._journal.tally, name, getattr(self._journal.tally, name) + 1)
        self._journal.note(text, kind=kind)

    def _write_soon(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = self._loop.create_task(self._write_down())

    async def _write_down(self) -> None:
        """Write who serves in another thread, and get the next terms: a disk that is stuck holds no request up."""
        written: tuple[int, Role | None] | None = None
        while written != (now := (self.state.term, self.state.serving)):
            problem = await asyncio.to_thread(self._terms.tell, *now)
            if problem is not None and (*now, problem) != self._complained:  # said once, however often it is tried
                self._complained = (*now, problem)
                self._journal.note(problem, diagnose(None, Evidence(fault=Fault.SHORT, errors=(problem,))))
            written = now
            if self._terms.granted != self.state.granted:
                self.tell(self._terms.granted)
