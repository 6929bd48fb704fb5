"""What members are told and told to do: a member's state, the events that change it, and the actions that follow."""

from dataclasses import dataclass
from enum import StrEnum


class Stand(StrEnum):
    """What a member does."""

    FOLLOWS = "follows"
    LEADS = "leads"


@dataclass(frozen=True)
class Terms:
    """How far a leader may be ahead, and the times; both members need the same."""

    ahead_max: int = 0
    lease_s: float = 1.0
    promise_s: float = 1.5
    beat_s: float = 0.1


@dataclass(frozen=True)
class State:
    """One member. ``last`` is the last record of its log; ``shared`` the last that is known to be in both logs.

    ``once_shared`` is the highest that was, since it started: another disk of the other member may hold less.
    ``start`` is the record that its log goes on from: of those before, only the state is left.
    ``lease_until`` is None while a leader's epoch has had no follower yet: nobody can take over from it.
    """

    seat: int
    terms: Terms
    epoch: int
    last: int
    heard_at: float
    stand: Stand = Stand.FOLLOWS
    start: int = 0
    shared: int = 0
    once_shared: int = 0
    joined: bool = False
    lease_until: float | None = None
    beat_at: float = 0.0


# Events: what happened, and when (seconds that never go back, on this machine alone).


@dataclass(frozen=True)
class Ticked:
    """Time passed."""

    now: float


@dataclass(frozen=True)
class Linked:
    """The other member can be talked to, from now on and not before."""

    now: float


@dataclass(frozen=True)
class Unlinked:
    """The other member cannot be talked to any more."""

    now: float


@dataclass(frozen=True)
class Offered:
    """Senders offered ``count`` new updates."""

    now: float
    count: int


@dataclass(frozen=True)
class Greeted:
    """The other member says where it stands; ``common`` is the last record that is in both logs."""

    now: float
    epoch: int
    leads: bool
    common: int


@dataclass(frozen=True)
class Welcomed:
    """The leader takes this member on, from record ``common``; ``is_same`` says that it is this log's record, too."""

    now: float
    epoch: int
    common: int
    is_same: bool
    sent_at: float


@dataclass(frozen=True)
class Lent:
    """The leader takes this member on with a genuine checkpoint of record ``start``, instead of records before it."""

    now: float
    epoch: int
    start: int
    sent_at: float


@dataclass(frozen=True)
class Shipped:
    """The leader sent ``count`` records, the first of them ``first``: none is a heartbeat."""

    now: float
    epoch: int
    first: int
    count: int
    sent_at: float


@dataclass(frozen=True)
class Confirmed:
    """The follower has all records up to ``seq`` on disk; ``sent_at`` is the leader's own time of what it confirms."""

    now: float
    epoch: int
    seq: int
    sent_at: float


@dataclass(frozen=True)
class Shortened:
    """The log goes on from record ``start`` now: :func:`may_go` said so."""

    start: int


Message = Greeted | Welcomed | Lent | Shipped | Confirmed
Event = Ticked | Linked | Unlinked | Offered | Shortened | Message

# Actions, carried out in their order; each is done, on disk where it says so, before the next.


@dataclass(frozen=True)
class KeepEpoch:
    """Put the epoch on disk."""

    epoch: int


@dataclass(frozen=True)
class Append:
    """Put the offered updates on disk as records of this epoch."""

    epoch: int


@dataclass(frozen=True)
class Store:
    """Put the records that the leader sent on disk."""


@dataclass(frozen=True)
class Cut:
    """Drop all records after ``seq``."""

    seq: int


@dataclass(frozen=True)
class Greet:
    """Tell the other member where this one stands, and the last record of each epoch in its log.

    ``is_bare``: as if the log held none, for its records are not the other one's.
    """

    epoch: int
    leads: bool
    is_bare: bool = False


@dataclass(frozen=True)
class Welcome:
    """Take the follower on, from record ``common``."""

    epoch: int
    common: int
    sent_at: float


@dataclass(frozen=True)
class Lend:
    """Take the follower on with the checkpoint that the log starts from."""

    epoch: int
    sent_at: float


@dataclass(frozen=True)
class Install:
    """Put the lent checkpoint on disk and begin the log anew from it."""


@dataclass(frozen=True)
class Ship:
    """Send all records from ``first`` on, if any, as fast as the link takes them."""

    epoch: int
    first: int
    sent_at: float


@dataclass(frozen=True)
class Confirm:
    """Tell the leader what is on disk here."""

    epoch: int
    seq: int
    sent_at: float


@dataclass(frozen=True)
class Refuse:
    """Tell the senders that offer or wait that this member does not lead."""


@dataclass(frozen=True)
class Part:
    """Close the link: the other member broke the protocol."""


Action = KeepEpoch | Append | Store | Cut | Install | Greet | Welcome | Lend | Ship | Confirm | Refuse | Part
Step = tuple[State, tuple[Action, ...]]
