"""What is true of each fault: what it takes in a script, and which component a diagnosis of it must name."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.drill.nouns import FaultKind, Strike
from pipeline.runtime.members import Component

_PROCESS = frozenset({Component.PROCESS})
_ENGINE = frozenset({Component.ENGINE})
_WEIGHTS = frozenset({Component.WEIGHTS})
_ARTIFACT = frozenset({Component.ARTIFACT})
_RESOURCE = frozenset({Component.RESOURCE})
_NONE: frozenset[Component] = frozenset()


@dataclass(frozen=True)
class FaultFacts:
    """One kind of fault.

    ``components``: a diagnosis names one of them; none: no member is at fault, and none may be named. ``may_say``:
    these may be named too, before the last word (a crash is the engine's until a request is found guilty) or as what
    follows from the fault. ``is_aimed``: it is done to a role. ``amounts`` are the figures that a script may give,
    each with what it is where none is given. ``can_end``: it can be taken back. ``is_latent``: nothing of it shows
    before something else happens: a worker starts, the disk is read or written. A script needs something beside it that
    makes that happen.
    """

    title: str
    components: frozenset[Component] = _NONE
    is_aimed: bool = True
    amounts: Mapping[str, float] = field(default_factory=dict)
    can_end: bool = True
    may_say: frozenset[Component] = _NONE
    is_latent: bool = False


FACTS: Mapping[FaultKind, FaultFacts] = {
    FaultKind.KILL: FaultFacts("kill -9", _PROCESS, can_end=False),
    FaultKind.STOP: FaultFacts("SIGSTOP", _PROCESS),
    FaultKind.HANG: FaultFacts("hang in code", _ENGINE),
    FaultKind.EXIT: FaultFacts("exit loop", _ENGINE),
    FaultKind.ERRORS: FaultFacts("errors", _ENGINE),
    FaultKind.MALFORMED: FaultFacts("outputs of another shape", _ENGINE),
    FaultKind.WRONG_DTYPE: FaultFacts("outputs of another type", _ENGINE),
    FaultKind.NAN: FaultFacts("NaN", _ENGINE),
    FaultKind.SLOW: FaultFacts("slow answers", _ENGINE, amounts={"ms": 500.0, "jitter_ms": 0.0, "ramp_ms": 0.0}),
    # From outside, an engine that computes wrongly and weights that changed behind every hash are the same.
    FaultKind.WRONG_ANSWERS: FaultFacts("wrong answers", _ENGINE | _WEIGHTS, amounts={"bias": 0.2}),
    FaultKind.CORRUPT_WEIGHTS: FaultFacts("corrupt weights", _WEIGHTS),
    FaultKind.BIT_FLIP: FaultFacts("a bit flipped on disk", _ARTIFACT, can_end=False, is_latent=True),
    FaultKind.TRUNCATED: FaultFacts("model file truncated", _ARTIFACT, can_end=False, is_latent=True),
    FaultKind.TAMPERED: FaultFacts("bundle tampered with", _ARTIFACT, can_end=False, is_latent=True),
    FaultKind.EXPIRED: FaultFacts("channel expired", _ARTIFACT, is_aimed=False, can_end=False, is_latent=True),
    FaultKind.ROLLED_BACK: FaultFacts(
        "channel rolled back", _ARTIFACT, is_aimed=False, can_end=False, is_latent=True
    ),
    FaultKind.STALE_MODEL: FaultFacts("stale model in place", _ARTIFACT, can_end=False, is_latent=True),
    FaultKind.OUT_OF_MEMORY: FaultFacts(
        "out of memory", _RESOURCE, amounts={"spare_mb": 96.0, "grow_mb": 32.0}, can_end=False
    ),
    # Late workers of a starved machine may be blamed on the machine; with luck nobody is late at all.
    FaultKind.CPU_STARVATION: FaultFacts(
        "processors starved", is_aimed=False, amounts={"processes": 8.0}, may_say=_RESOURCE
    ),
    FaultKind.DISK_FULL: FaultFacts("disk full", _RESOURCE, is_aimed=False, is_latent=True),
    FaultKind.DESCRIPTORS: FaultFacts(
        "descriptors used up", is_aimed=False, amounts={"connections": 1024.0}, may_say=_RESOURCE
    ),
    FaultKind.DROPPED: FaultFacts("network drops bytes", is_aimed=False),
    FaultKind.DELAYED: FaultFacts("network delays bytes", is_aimed=False, amounts={"ms": 50.0, "jitter_ms": 0.0}),
    FaultKind.RESET: FaultFacts("connections reset", is_aimed=False),
    FaultKind.REGISTRY_DOWN: FaultFacts(
        "registry down", is_aimed=False, may_say=frozenset({Component.DEPENDENCY})
    ),
    FaultKind.STORE_DOWN: FaultFacts("store down", is_aimed=False, may_say=frozenset({Component.DEPENDENCY})),
    FaultKind.CLOCK_BACK: FaultFacts("clock set back", is_aimed=False, amounts={"ms": 3_600_000.0}),
    FaultKind.POISON: FaultFacts(
        "poison request", frozenset({Component.REQUEST}), is_aimed=False, can_end=False,
        amounts={"poison_requests": 2.0, "every_ms": 250.0}, may_say=_ENGINE,
    ),
    FaultKind.SERVER_DEATH: FaultFacts(
        "server killed", is_aimed=False, can_end=False, may_say=frozenset({Component.ROUTER})
    ),
    FaultKind.START_FAILS: FaultFacts("starts fail", _ENGINE, amounts={"times": 1.0}, can_end=False, is_latent=True),
}  # fmt: skip


def amount(strike: Strike, name: str) -> float:
    """Return a figure of a strike: what its script says, else what is usual of its fault."""
    return strike.amount(name, FACTS[strike.fault].amounts[name])
