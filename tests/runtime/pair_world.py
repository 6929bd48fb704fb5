"""A small world around the pair machine: workers that live and die, a disk that keeps the reserved term."""

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from pipeline.core.errors import OutOfSpace
from pipeline.core.names import Role
from pipeline.runtime import pair
from pipeline.runtime.members import Seat
from pipeline.runtime.pair import (
    Action,
    Event,
    Granted,
    Load,
    Note,
    NoteKind,
    PairState,
    Serve,
    Start,
    Stop,
    Unserve,
    first_state,
    is_calm,
    step,
)
from pipeline.runtime.settings import Settings
from pipeline.runtime.terms import Remembered

P, B = Seat(Role.PRIMARY), Seat(Role.BACKUP)
BLOCK = 4  # terms reserved at once


@dataclass
class World:
    """Carries actions out one by one; ``crash()`` loses everything but the disk and the clock."""

    settings: Settings
    now_ms: int = 0
    reserved: int = 0  # on disk
    is_full: bool = False  # the disk: nothing is reserved any more
    alive: dict[Seat, int] = field(default_factory=dict)  # seat → incarnation of the one that is no longer to go
    draining: set[tuple[Seat, int]] = field(default_factory=set)
    starting: dict[Seat, bool] = field(default_factory=dict)  # alive and on its way: does it load?
    serving: tuple[Role, int] | None = None
    terms: list[int] = field(default_factory=list)  # every term that was ever served
    notes: list[Note] = field(default_factory=list)
    todo: deque[Action] = field(default_factory=deque)
    state: PairState = field(init=False)

    def __post_init__(self) -> None:
        self.boot()

    def boot(self) -> None:
        self.reserved += BLOCK
        granted = Granted(self.reserved - BLOCK + 1, self.reserved)
        self.state, actions = first_state(self.settings, self.now_ms, granted.first - 1, granted)
        self.todo = deque(actions)

    def crash(self) -> None:
        """The machine's process dies: its workers go with it, whatever was not carried out is forgotten."""
        self.alive, self.starting, self.serving = {}, {}, None
        self.draining = set()
        self.boot()

    def feed(self, event: Event) -> tuple[Action, ...]:
        self.state, actions = step(self.state, event)
        if is_calm(self.state):  # what is not asked then would come to nothing
            assert pair._settled(self.state, event) == (self.state, ())
        self.todo.extend(actions)
        return actions

    def act(self) -> None:
        """Carry out one action."""
        self._perform(self.todo.popleft())

    def act_all(self) -> None:
        while self.todo or (self.state.next_term is None and not self.is_full):
            if self.todo:
                self.act()
            else:
                self.grant()

    def grant(self) -> None:
        """Reserve more, above what others have reserved meanwhile."""
        self.reserved += BLOCK
        self.feed(Granted(self.reserved - BLOCK + 1, self.reserved))

    def _perform(self, action: Action) -> None:
        match action:
            case Start(seat, incarnation, then_load):
                assert seat not in self.alive, "two workers in one seat"
                self.alive[seat] = incarnation
                self.starting[seat] = then_load
            case Load(seat, incarnation):
                assert self.alive[seat] == incarnation
                self.starting[seat] = True
            case Stop(seat, incarnation, drain):
                self._stop(seat, incarnation, drain)
            case Serve(role, term):
                assert not self.terms or term > self.terms[-1], "a term that was used before, or is lower"
                assert self.state.granted.first <= term <= self.state.granted.through, "another pair's term"
                self.terms.append(term)
                self.serving = (role, term)
            case Unserve(term):
                assert self.serving is not None and self.serving[1] == term
                self.serving = None
            case Note():
                self.notes.append(action)

    def _stop(self, seat: Seat, incarnation: int, drain: bool) -> None:
        if self.alive.get(seat) == incarnation:
            del self.alive[seat]
            self.starting.pop(seat, None)
            if drain:
                self.draining.add((seat, incarnation))

    def kinds(self) -> list[NoteKind]:
        return [note.kind for note in self.notes]


@dataclass
class Shelf:
    """A disk of terms that fills and is emptied."""

    remembered: Remembered = field(default_factory=lambda: Remembered(1, 0))
    is_full: bool = False

    def read(self) -> Remembered:
        return self.remembered

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def write(self, remembered: Remembered) -> None:
        if self.is_full:
            raise OutOfSpace("No space is left.")
        self.remembered = remembered
