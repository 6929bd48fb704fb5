"""The nouns of a drill: what is done to a pair under which load, what was seen, and what must hold."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from pipeline.core.names import Role
from pipeline.runtime.members import Component


class FaultKind(StrEnum):
    """A disaster; the comment says what really happens in a live drill."""

    KILL = "kill"  # SIGKILL to a worker
    STOP = "stop"  # SIGSTOP to a worker; lasts `for` ms, then SIGCONT (a stale primary resumes)
    HANG = "hang"  # a call into the engine never comes back
    EXIT = "exit"  # every worker of a role exits at each request: an exit loop
    ERRORS = "errors"  # the engine refuses every request
    MALFORMED = "malformed"  # outputs of another shape
    WRONG_DTYPE = "wrong-dtype"
    NAN = "nan"
    SLOW = "slow"  # each answer waits `ms`, up to `jitter_ms` more, and `ramp_ms` more each time
    WRONG_ANSWERS = "wrong-answers"  # a bias on every output
    CORRUPT_WEIGHTS = "corrupt-weights"  # in memory, as executed; proven to change ≥ 5 % of the answers
    # What is on disk changes, and the server is told to read it again (SIGHUP): that is refused, the old release goes
    # on. A worker that starts from now on is refused too (artifact on disk), and so is the disk at its next check.
    BIT_FLIP = "bit-flip"  # one bit of the model's file on disk
    TRUNCATED = "truncated"  # the model's file on disk loses its end
    TAMPERED = "tampered"  # a payload file and its digests are rewritten, the signature is not
    EXPIRED = "expired"  # the channel's not_after has passed
    ROLLED_BACK = "rolled-back"  # an older channel is put in place of the current one
    STALE_MODEL = "stale-model"  # a bundle that the channel no longer names is put in place
    OUT_OF_MEMORY = "out-of-memory"  # the kernel kills a worker that grows beyond its group's limit
    CPU_STARVATION = "cpu-starvation"  # busy processes take the processors
    DISK_FULL = "disk-full"  # of the state directory, a small file system of its own
    DESCRIPTORS = "descriptors"  # the server's descriptors are used up by idle connections
    DROPPED = "dropped"  # network: bytes vanish
    DELAYED = "delayed"  # network: bytes come `ms` later, up to `jitter_ms` more
    RESET = "reset"  # network: connections are reset
    REGISTRY_DOWN = "registry-down"
    STORE_DOWN = "store-down"
    CLOCK_BACK = "clock-back"  # the wall clock that server and workers ask goes back by `ms`
    POISON = "poison"  # requests that end every worker that computes them
    SERVER_DEATH = "server-death"  # SIGKILL to the process that answers (the router)
    START_FAILS = "start-fails"  # the next `times` starts of a role fail


class Arrivals(StrEnum):
    """How requests are spread over time."""

    CONSTANT = "constant"
    POISSON = "poisson"
    REPLAY = "replay"  # of the times in a request log


@dataclass(frozen=True)
class Load:
    """Open-loop load: requests come when they are due, whatever answers come."""

    arrivals: Arrivals = Arrivals.POISSON
    rate_per_s: float = 100.0
    seconds: float = 4.0
    deadline_ms: float = 1000.0
    seed: int = 0
    log: str = ""  # REPLAY: a file with one due time in seconds per line


@dataclass(frozen=True)
class Strike:
    """One fault at one moment; ``target`` is None where the fault is done to no member.

    ``amounts`` are the fault's own figures by name (``ms``, ``jitter_ms``, ``times``, ``poison_requests`` ...).
    ``lasts_ms``: how long until it is taken back; None: for good.
    """

    at_ms: int
    fault: FaultKind
    target: Role | None = None
    lasts_ms: int | None = None
    amounts: tuple[tuple[str, float], ...] = ()

    def amount(self, name: str, otherwise: float) -> float:
        """Return a figure of this strike."""
        return dict(self.amounts).get(name, otherwise)


@dataclass(frozen=True)
class Objectives:
    """What must hold; None: not asked. ``localisation_min`` is the share of faults whose component was named."""

    lost_max: int | None = 0
    wrong_max: int | None = 0
    refused_max: int | None = None
    abstained_ratio_max: float | None = None
    late_max: int | None = None
    worst_ms_max: float | None = None
    p99_ms_max: float | None = None
    mttd_ms_max: float | None = None
    rto_ms_max: float | None = None
    redundancy_ms_max: float | None = None  # until both members are ready again
    rpo_versions_max: int | None = 0
    failovers_max: int | None = None
    degraded_ratio_max: float | None = None
    accuracy_loss_max: float | None = None  # of answers given while degraded, against the float model's
    localisation_min: float | None = None


@dataclass(frozen=True)
class Script:
    """One drill; ``settings`` are overrides of the pair's settings by name, as text."""

    name: str
    rule: str  # what it guards, one sentence
    load: Load = Load()
    strikes: tuple[Strike, ...] = ()
    objectives: Objectives = Objectives()
    settings: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()  # "root": mounts or groups are made; the live world says what is missing
    transcript: str = ""  # what must come out, the same in both worlds
    comments: tuple[str, ...] = ()  # what else a person wrote above it
    shows: tuple[str, ...] = ()  # lines of the transcript by their first word, where chance decides the others; (): all


class Outcome(StrEnum):
    """What became of one request."""

    RIGHT = "right"
    WRONG = "wrong"  # released, and beyond golden tolerance of the same bundle run offline
    ABSTAINED = "abstained"  # withheld because answers disagreed
    REFUSED = "refused"  # this request itself is at fault (4xx)
    LOST = "lost"  # no answer within its deadline


@dataclass(frozen=True)
class Request:
    """One request as its client saw it; times in ms after the load's start. ``is_extra``: sent by a fault (poison)."""

    number: int
    question: int  # which row it asked
    due_ms: float
    sent_ms: float | None
    done_ms: float | None
    outcome: Outcome
    role: Role | None = None  # who answered
    term: int | None = None
    bundle_id: str = ""
    is_extra: bool = False
    problem: str = ""  # why it is lost or refused
    left_ms: float | None = None  # when the server let its answer go; None: not known, as in the live world

    @property
    def latency_ms(self) -> float | None:
        """Return how long the answer took, counted from when the request was due."""
        return None if self.done_ms is None else self.done_ms - self.due_ms


class MomentKind(StrEnum):
    """Something on a drill's timeline."""

    STRUCK = "struck"  # by the drill
    ENDED = "ended"  # the drill took a fault back
    UNDONE = "could not be done"  # the drill tried to strike, and there was nobody to do it to: nothing is proven
    DETECTED = "detected"  # a member was found at fault
    FAILOVER = "failover"
    FAILBACK = "failback"
    OUTAGE = "outage"
    RESTORED = "restored"
    RESTART = "restart"
    QUARANTINE = "quarantine"
    REDUNDANCY_LOST = "redundancy lost"
    REDUNDANCY_BACK = "redundancy back"
    OTHER = "other"


@dataclass(frozen=True)
class Moment:
    """One event; ``component`` where it is a diagnosis, ``strike`` (from 0) where the drill did it."""

    at_ms: float
    kind: MomentKind
    text: str
    role: Role | None = None
    component: Component | None = None
    confidence: float | None = None
    strike: int | None = None


@dataclass(frozen=True)
class Observed:
    """All that one play of a script showed. ``serving``: (since ms, role or None, term), oldest first."""

    world: str  # "simulated" | "live"
    requests: tuple[Request, ...]
    moments: tuple[Moment, ...]
    serving: tuple[tuple[float, Role | None, int], ...]
    hedged: int = 0
    resent: int = 0
    versions_behind: int = 0  # RPO: model versions between what serves at the end and what was promoted
    left_out: str = ""  # why it could not be played here
    memory_mb: float = 0.0  # of all processes of the pair, at most
    cpu_ratio: float = 0.0  # of one processor, on average
    degraded_score: float | None = None  # the task's metric over the questions that the backup answered
    float_score: float | None = None  # the float model's, over the same questions
    facts: dict[str, str] = field(default_factory=dict)  # machine, versions, bundle ids: for the report
    memory_rest_mb: float = 0.0  # of all processes of the pair before the load: what it takes all day

    def strikes(self) -> Iterator[Moment]:
        """Yield what the drill did, in order."""
        return (one for one in self.moments if one.kind is MomentKind.STRUCK)
