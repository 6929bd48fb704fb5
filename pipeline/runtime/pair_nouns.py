"""The nouns of the pair machine: members and their pair, what can happen to them, what is to be done."""

import sys
from dataclasses import dataclass
from enum import StrEnum

from pipeline.core.names import Role
from pipeline.runtime.members import Fault, MemberState, Seat, Tier
from pipeline.runtime.settings import Settings


@dataclass(frozen=True)
class Member:
    """What is known of a seat; times in milliseconds of the pair's clock.

    ``incarnation`` counts the workers that this seat has had; what an earlier one does or says changes nothing.
    """

    seat: Seat
    state: MemberState = MemberState.DOWN
    incarnation: int = 0
    since_ms: int = 0  # in this state since
    start_at_ms: int | None = (
        None  # DOWN: when its next worker starts; None: when it is needed (cold), or never (drain)
    )
    failures_ms: tuple[int, ...] = ()  # within the restart window
    clean_probes: int = 0  # in a row, since it became READY
    loads: bool = False  # STARTING goes on to READY by itself, else it ends at STAGED
    leaving: Fault | None = None  # READY, but to be replaced as soon as another can serve, for this


@dataclass(frozen=True)
class Granted:
    """Terms from ``first`` to ``through`` are this pair's own from now on: it begins none that is not among them."""

    first: int
    through: int


EVERY_TERM = Granted(1, sys.maxsize)  # of a pair that nobody else shares numbers with


@dataclass(frozen=True)
class PairState:
    """One pair. ``serving`` is the role that answers, under ``term``; None: nobody does."""

    settings: Settings
    now_ms: int
    term: int
    serving: Role | None
    members: tuple[Member, ...]
    draining: bool
    failovers_ms: tuple[int, ...]  # away from the primary, because of a fault
    started_ms: int
    has_served: bool = False
    pinned: bool = False  # an operator chose the backup: no failback by itself
    switching_to: Role | None = None  # asked for by an operator; waits for that role to be ready
    granted: Granted = EVERY_TERM

    @property
    def next_term(self) -> int | None:
        """Return the term that the next change of who serves begins; None: there is none, so nobody may take over."""
        term = max(self.term + 1, self.granted.first)
        return term if term <= self.granted.through else None

    def member(self, seat: Seat) -> Member:
        """Return the member of a seat; raises KeyError for a seat that this pair does not have."""
        for member in self.members:
            if member.seat == seat:
                return member
        raise KeyError(seat)

    def ready(self, role: Role) -> tuple[Member, ...]:
        """Return the members of a role that can answer."""
        return tuple([m for m in self.members if m.state is MemberState.READY and m.seat.role is role])

    def staying(self, role: Role) -> tuple[Member, ...]:
        """Return the members of a role that can answer and need not be replaced."""
        return tuple([m for m in self.ready(role) if m.leaving is None])

    def needs(self, role: Role) -> bool:
        """Tell whether a role's members are to be loaded: all but a warm or cold backup behind a sound primary."""
        if role is Role.PRIMARY or self.settings.standby is Tier.HOT:
            return True
        if Role.BACKUP in (self.serving, self.switching_to):
            return True
        return not self.staying(Role.PRIMARY) and not self.primary_is_on_its_way()

    def primary_is_on_its_way(self) -> bool:
        """Tell whether a first start of the primary is still within its grace, so that the backup need not serve."""
        in_grace = self.now_ms - self.started_ms < self.settings.start_grace_ms
        return in_grace and any(
            m.seat.role is Role.PRIMARY and not m.failures_ms and m.state in (MemberState.STARTING, MemberState.DOWN)
            for m in self.members
        )


def other(role: Role) -> Role:
    """Return the other role."""
    return Role.BACKUP if role is Role.PRIMARY else Role.PRIMARY


@dataclass(frozen=True)
class Tick:
    """Time went on. Feed one before every other event whose moment matters: the others happen at the last tick."""

    now_ms: int


@dataclass(frozen=True)
class Staged:
    """A worker has verified its bundle and waits to be told to load it."""

    seat: Seat
    incarnation: int


@dataclass(frozen=True)
class Ready:
    """A worker is loaded, warm, and gave its golden answers in time."""

    seat: Seat
    incarnation: int


@dataclass(frozen=True)
class Failed:
    """A worker is at fault."""

    seat: Seat
    incarnation: int
    fault: Fault


@dataclass(frozen=True)
class ProbePassed:
    """A canary came back in time and right."""

    seat: Seat
    incarnation: int


@dataclass(frozen=True)
class Excused:
    """The last failure of a seat turned out to be the fault of a poison request: it is not counted."""

    seat: Seat


@dataclass(frozen=True)
class SwitchAsked:
    """An operator wants a role to serve."""

    to: Role


@dataclass(frozen=True)
class HoldAsked:
    """An operator wants to stop a member for maintenance."""

    seat: Seat


@dataclass(frozen=True)
class ReleaseAsked:
    """An operator brings a held or quarantined member back."""

    seat: Seat


@dataclass(frozen=True)
class DrainAsked:
    """The server is ending: go on serving, start nothing."""


Asked = SwitchAsked | HoldAsked | ReleaseAsked | DrainAsked
OfWorker = Staged | Ready | Failed | ProbePassed
Event = Tick | OfWorker | Excused | Granted | Asked


@dataclass(frozen=True)
class Start:
    """Start a worker; ``then_load`` tells it not to wait for :class:`Load`."""

    seat: Seat
    incarnation: int
    then_load: bool


@dataclass(frozen=True)
class Load:
    """Tell a staged worker to load its model."""

    seat: Seat
    incarnation: int


@dataclass(frozen=True)
class Stop:
    """End a worker, if it still lives: at once, or (``drain``) after what it was already sent."""

    seat: Seat
    incarnation: int
    drain: bool


@dataclass(frozen=True)
class Serve:
    """From now on this role answers, and only under this term."""

    role: Role
    term: int


@dataclass(frozen=True)
class Unserve:
    """Nobody answers: the term is over."""

    term: int


class NoteKind(StrEnum):
    """What a note is about."""

    STARTED = "started"  # serves for the first time
    FAILOVER = "failover"
    FAILBACK = "failback"
    SWITCHOVER = "switchover"
    RESTART = "restart"
    QUARANTINE = "quarantine"
    HELD = "held"
    RELEASED = "released"
    REDUNDANCY_LOST = "redundancy lost"
    REDUNDANCY_BACK = "redundancy back"
    OUTAGE = "outage"
    RESTORED = "restored"
    REFUSED = "refused"
    CHANNEL_DUE = "channel due"  # it was to be renewed
    CHANNEL_EXPIRED = "channel expired"
    CHANNEL_RENEWED = "channel renewed"


@dataclass(frozen=True)
class Note:
    """Something for the timeline, in words; changes nothing."""

    text: str
    kind: NoteKind


Action = Start | Load | Stop | Serve | Unserve | Note
Moved = tuple[PairState, tuple[Action, ...]]
