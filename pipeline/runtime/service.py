"""What a front end (HTTP) sees of the pairs that are served: a port, its answers and its refusals."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from pipeline.bundle.channel import Expiry
from pipeline.bundle.io_contract import IoContract
from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime.members import Diagnosis, MemberState, Seat


@dataclass(frozen=True)
class Answer:
    """The outputs of one request, by name, and who gave them: bundle, role and term."""

    outputs: Mapping[str, Array]
    bundle_id: str
    candidate: str
    role: Role
    term: int
    hedged: bool


class RefusalKind(StrEnum):
    """Why a request got no outputs."""

    BAD_REQUEST = "bad_request"  # 400: inputs do not fit the io contract
    UNKNOWN = "unknown"  # 404: no such model or version
    POISON = "poison"  # 422: this request takes workers down; it is quarantined by digest
    OVERLOADED = "overloaded"  # 429, Retry-After: the queue is full
    ABSTAINED = "abstained"  # 503: verify mode: the answers disagree
    EXPIRED = "expired"  # 503: the channel ended, and the trust policy refuses from then on
    UNAVAILABLE = "unavailable"  # 503, Retry-After: no member can serve, or draining
    DEADLINE = "deadline"  # 504: no answer in time


@dataclass(frozen=True)
class NotAnswered:
    """A request without outputs; ``sentence`` is for the caller."""

    kind: RefusalKind
    sentence: str
    retry_after_s: int | None = None


@dataclass(frozen=True)
class ServedModel:
    """A model as clients see it; ``version`` is the first 12 digits of the primary's bundle id."""

    name: str
    version: str
    platform: str
    io: IoContract
    ready: bool


@dataclass(frozen=True)
class MemberStatus:
    """One worker, for people."""

    seat: Seat
    state: MemberState
    bundle_id: str
    candidate: str
    pid: int | None
    rss_bytes: int | None
    restarts: int
    serving: bool


@dataclass(frozen=True)
class TimelineEvent:
    """Something that happened, for people; newest last."""

    at: datetime
    text: str
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True)
class Counters:
    """What was counted since start; monotone."""

    answered: int = 0
    refused: Mapping[RefusalKind, int] = field(default_factory=dict)
    degraded: int = 0  # correct answers of the backup
    hedges: int = 0  # requests sent to a second member because the first was late
    resent: int = 0  # requests sent again because a member failed
    guarded: int = 0  # answers withheld by output guards
    failovers: int = 0
    failbacks: int = 0
    restarts: int = 0


@dataclass(frozen=True)
class ChannelStatus:
    """The channel that what serves was verified under; dates as the channel writes them, in UTC.

    ``age_s`` counts from ``issued_at``, ``refresh_in_s`` and ``expires_in_s`` are negative when the moment has passed.
    ``is_due``: it was to be renewed by now. ``policy`` is what the trust policy says for when it has expired.
    """

    name: str
    epoch: int
    seq: int
    issued_at: str
    refresh_by: str
    not_after: str
    age_s: int
    refresh_in_s: int
    expires_in_s: int
    is_due: bool
    is_expired: bool
    policy: Expiry


@dataclass(frozen=True)
class PairStatus:
    """One pair, for people and ``/metrics``.

    ``latency_ms`` holds recent answer times at the router, as (seconds since epoch, p50, p99) a second, at most 300.
    ``channel`` is None where none was given.
    """

    model: str
    version: str
    term: int
    serving: Role | None
    members: tuple[MemberStatus, ...]
    queue: int
    counters: Counters
    latency_ms: tuple[tuple[int, float, float], ...]
    timeline: tuple[TimelineEvent, ...]
    channel: ChannelStatus | None


class Service(Protocol):
    """Pairs that answer."""

    def models(self) -> tuple[ServedModel, ...]:
        """Return what is served, by name; cheap enough to be called for every request."""
        ...

    async def infer(
        self, model: str, version: str | None, inputs: Mapping[str, Array], deadline_ms: float
    ) -> Answer | NotAnswered:
        """Answer one request; inputs already have the contract's names, dtypes and shapes. Never raises."""
        ...

    def status(self) -> tuple[PairStatus, ...]:
        """Return every pair's state."""
        ...

    async def switch(self, model: str, to: Role) -> str:
        """Make a role serve; returns a sentence on what was done. Raises Refusal."""
        ...

    async def hold(self, model: str, seat: Seat) -> str:
        """Stop a member for maintenance. Raises Refusal when it would end the service."""
        ...

    async def release(self, model: str, seat: Seat) -> str:
        """Bring a held or quarantined member back."""
        ...

    async def swap(self, model: str) -> str:
        """Read the model's bundles (and channel) again and move to them without losing a request. Raises Untrusted."""
        ...

    def draining(self) -> bool:
        """Tell whether the server is ending: not ready, new requests are refused."""
        ...
