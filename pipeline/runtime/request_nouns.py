"""The nouns of one request's life: its attempts, what can happen to it, what is to be done."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from pipeline.core.names import Role
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.service import RefusalKind
from pipeline.runtime.settings import VerifyMode

TASTER_REPLICA = -1  # the seat of a taster is Seat(role, TASTER_REPLICA)


class Outcome(StrEnum):
    """What became of an attempt."""

    PENDING = "pending"
    GOOD = "good"
    BAD = "bad"  # an error, or an answer that the guards withheld
    LOST = "lost"  # the worker is gone, or no longer trusted: what it still says is not heard
    SUSPECT = "suspect"  # lost, and perhaps by this request: the worker ended or hung while it computed it


class Phase(StrEnum):
    """How far a request is."""

    RUNNING = "running"
    TASTING = "tasting"  # a suspect: only a taster may have it
    DONE = "done"


class Attempt(NamedTuple):
    """One sending of the request to one worker."""

    seat: Seat
    incarnation: int
    sent_ms: float
    outcome: Outcome = Outcome.PENDING
    fault: Fault | None = None  # of a BAD answer

    @property
    def is_tasting(self) -> bool:
        """Tell whether a taster was asked."""
        return self.seat.replica == TASTER_REPLICA

    @property
    def is_open(self) -> bool:
        """Tell whether its outputs may still be used."""
        return self.outcome is Outcome.PENDING or self.outcome is Outcome.GOOD


class RequestState(NamedTuple):
    """One request; ``deadline_ms`` is a moment, ``hedge_after_ms`` a duration.

    ``verdicts`` are the comparisons made so far: two places in ``attempts``, and whether they agree.
    ``comparing`` are the two places whose comparison was asked for.
    """

    deadline_ms: float
    hedge_after_ms: float
    verify: VerifyMode
    attempts: tuple[Attempt, ...] = ()
    phase: Phase = Phase.RUNNING
    comparing: tuple[int, int] | None = None
    verdicts: tuple[tuple[int, int, bool], ...] = ()


Choice = tuple[Seat, int, int]  # a member that is ready: seat, incarnation, requests it has in hand


@dataclass(frozen=True, slots=True)
class Available:
    """Who can be asked now: members of the serving role, the others that are ready, and whether a taster is free."""

    serving: tuple[Choice, ...]
    others: tuple[Choice, ...]
    taster: bool


@dataclass(frozen=True, slots=True)
class Arrived:
    """The request is here and valid; the first event."""

    now_ms: float


@dataclass(frozen=True, slots=True)
class AnswerGood:
    """A worker (or the taster) answered, and the guards let it pass."""

    seat: Seat
    incarnation: int
    now_ms: float


@dataclass(frozen=True, slots=True)
class AnswerBad:
    """A worker (or the taster) answered with an error, or with outputs that the guards withheld."""

    seat: Seat
    incarnation: int
    now_ms: float
    fault: Fault = Fault.ERRORS


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker (or the taster) is gone; ``suspect``: it ended or hung by itself while it computed this request."""

    seat: Seat
    incarnation: int
    now_ms: float
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparison that was asked for is done."""

    agree: bool
    now_ms: float


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """Somebody became ready, serves, or a taster is free."""

    now_ms: float


@dataclass(frozen=True, slots=True)
class RequestTick:
    """The moment that was asked for with :class:`WakeAt` has come."""

    now_ms: float


OfAttempt = AnswerGood | AnswerBad | Lost
RequestEvent = Arrived | OfAttempt | Compared | MembersChanged | RequestTick


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request to a worker."""

    seat: Seat
    incarnation: int
    hedge: bool  # because another is late, not because one failed


@dataclass(frozen=True, slots=True)
class Taste:
    """Send the request to a taster: of this side, or of any."""

    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Compare:
    """Compare the outputs of two attempts, named by their places in ``attempts``; answer with :class:`Compared`."""

    a: int
    b: int


@dataclass(frozen=True, slots=True)
class Release:
    """Answer with the outputs of this attempt. The last action of a request."""

    seat: Seat
    incarnation: int


@dataclass(frozen=True, slots=True)
class Abstain:
    """Answer that nothing is released (verify mode). The last action of a request."""

    sentence: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer without outputs. The last action of a request."""

    kind: RefusalKind
    sentence: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Come back with :class:`RequestTick` at this moment; replaces any earlier one."""

    now_ms: float


RequestAction = Send | Taste | Compare | Release | Abstain | Refuse | WakeAt
Moved = tuple[RequestState, tuple[RequestAction, ...]]
