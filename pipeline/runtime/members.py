"""The nouns of a pair: seats, faults, components, diagnoses."""

from dataclasses import dataclass
from enum import StrEnum

from pipeline.core.names import Role


@dataclass(frozen=True, order=True)
class Seat:
    """A place for one worker of a pair: the role of its bundle, and which replica of that role (from 0)."""

    role: Role
    replica: int = 0

    def __str__(self) -> str:
        return f"{self.role}-{self.replica}"


class Tier(StrEnum):
    """How much of a standby is done before it is needed."""

    HOT = "hot"  # loaded, warm, probed
    WARM = "warm"  # process up, verified bytes staged, model not loaded
    COLD = "cold"  # on disk


class MemberState(StrEnum):
    """What the worker of a seat is doing."""

    DOWN = "down"  # no process; starts when its backoff ends, or when it is needed (cold)
    STARTING = "starting"  # process up: verifies, loads, warms, compares golden answers
    STAGED = "staged"  # process up, bytes verified, model not loaded (warm)
    READY = "ready"  # a golden inference passed within its deadline
    HELD = "held"  # stopped for maintenance, by an operator
    QUARANTINED = "quarantined"  # failed too often; only an operator brings it back


class Fault(StrEnum):
    """What went wrong with one worker."""

    CRASH = "crash"  # the process ended by itself
    KILLED = "killed"  # the process was killed from outside
    OUT_OF_MEMORY = "out_of_memory"
    STOPPED = "stopped"  # SIGSTOP, debugger, frozen cgroup
    HANG = "hang"  # no answer to a probe or request in time
    SLOW = "slow"  # answers, but far above its own baseline
    ERRORS = "errors"  # answers with errors what the other side can answer
    BAD_OUTPUT = "bad_output"  # NaN, infinity, wrong shape or dtype, out of range
    WRONG_ANSWER = "wrong_answer"  # canary or shadow differs beyond tolerance
    CORRUPT_WEIGHTS = "corrupt_weights"  # the engine's input bytes are not those that were verified
    TAMPERED = "tampered"  # the bundle on disk is not what was signed
    START_FAILED = "start_failed"  # could not verify, load or warm up
    MEMORY_GROWTH = "memory_growth"
    EXPIRED = "expired"  # the channel of what serves ended and was not renewed
    SHORT = "short"  # the server itself ran out of disk, memory or descriptors
    POISON = "poison"  # one request that takes a worker down or makes both fail


class Component(StrEnum):
    """What is at fault."""

    PROCESS = "process"
    ENGINE = "engine"
    WEIGHTS = "weights in memory"
    ARTIFACT = "artifact on disk"
    REQUEST = "poison request"
    RESOURCE = "resource"
    DEPENDENCY = "dependency"
    ROUTER = "router"


@dataclass(frozen=True)
class Diagnosis:
    """Where a fault is, why that is believed, how surely (0 to 1), and what a person should do."""

    seat: Seat | None
    fault: Fault
    component: Component
    evidence: tuple[str, ...]
    confidence: float
    advice: str
