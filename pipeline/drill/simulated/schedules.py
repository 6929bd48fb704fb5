"""Random drills: at least 200 requests and two faults each, of every kind, aimed at moments that hurt."""

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from pipeline.core.names import Role
from pipeline.drill.fault_facts import FACTS
from pipeline.drill.nouns import Arrivals, FaultKind, Load, Objectives, Script, Strike
from pipeline.drill.simulated.clients import due_times
from pipeline.runtime.members import Tier
from pipeline.runtime.settings import Failback, VerifyMode

REQUESTS_MIN = 200
_STRIKES_MAX = 5
_GAPS_MS = (0, 1, 5, 20, 45, 60, 90, 120, 150, 250, 400)  # moments apart at which things are half done
_TOGETHER = 0.6  # share of strikes that follow closely on the one before

Draw = random.Random
_AMOUNTS: Mapping[str, Callable[[Draw], float]] = {
    "ms": lambda draw: draw.choice((5.0, 30.0, 120.0, 300.0, 900.0)),
    "jitter_ms": lambda draw: draw.choice((0.0, 10.0, 80.0)),
    "ramp_ms": lambda draw: draw.choice((0.0, 2.0, 20.0)),
    "bias": lambda draw: draw.choice((0.05, 0.2)),
    "spare_mb": lambda draw: draw.choice((32.0, 96.0)),
    "grow_mb": lambda _draw: 32.0,
    "processes": lambda draw: draw.choice((2.0, 8.0)),
    "connections": lambda _draw: 1000.0,
    "poison_requests": lambda draw: float(draw.randint(1, 3)),
    "every_ms": lambda draw: draw.choice((0.0, 20.0, 150.0)),
    "times": lambda draw: float(draw.randint(1, 3)),
}
_MUST_END = frozenset({
    FaultKind.EXIT, FaultKind.CPU_STARVATION, FaultKind.DISK_FULL, FaultKind.DESCRIPTORS, FaultKind.DROPPED,
    FaultKind.DELAYED, FaultKind.RESET,
})  # fmt: skip
_LASTS_MS = (30, 80, 200, 400)


def random_script(seed: int) -> Script:
    """Return the random drill of a seed; it can be written as text and read back."""
    draw = random.Random(f"schedule {seed}")  # noqa: S311 - a drill's dice
    load = _load(draw)
    strikes = _strikes(draw, int(1000 * load.seconds))
    return Script(
        f"random-{seed}", "Whatever happens, a pair keeps its promises.", load, strikes,
        Objectives(lost_max=None, wrong_max=None), _settings(draw),
    )  # fmt: skip


def _load(draw: Draw) -> Load:
    seconds = draw.choice((0.5, 0.6, 0.7))
    arrivals = draw.choice((Arrivals.POISSON, Arrivals.POISSON, Arrivals.CONSTANT))
    rate_per_s = float(round((REQUESTS_MIN + 4) / seconds))
    deadline_ms = draw.choice((400.0, 1000.0, 1000.0))
    load = Load(arrivals, rate_per_s, seconds, deadline_ms, draw.randrange(1000))
    while len(due_times(load)) < REQUESTS_MIN:
        load = replace(load, seed=draw.randrange(1000))
    return load


def _strikes(draw: Draw, within_ms: int) -> tuple[Strike, ...]:
    at_ms = draw.randrange(20, within_ms // 2)
    found: list[Strike] = []
    for _ in range(draw.choice((2, 2, 2, 3, 3, 4, _STRIKES_MAX))):
        found.append(_strike(draw, at_ms))
        apart = draw.choice(_GAPS_MS) if draw.random() < _TOGETHER else draw.randrange(100, 600)
        at_ms = min(at_ms + apart, within_ms - 1)
    return tuple(found)


def _strike(draw: Draw, at_ms: int) -> Strike:
    fault = draw.choice(list(FaultKind))
    facts = FACTS[fault]
    target = draw.choice((Role.PRIMARY, Role.PRIMARY, Role.BACKUP)) if facts.is_aimed else None
    ends = facts.can_end and (fault in _MUST_END or draw.random() < 0.5)
    amounts = tuple((name, _AMOUNTS[name](draw)) for name in facts.amounts)
    return Strike(at_ms, fault, target, draw.choice(_LASTS_MS) if ends else None, amounts)


def _settings(draw: Draw) -> tuple[tuple[str, str], ...]:
    """Return settings: mostly the defaults, with failback soon, and starts that are given up soon."""
    found = {"failback_probes": "3", "start_max_ms": "2000", "backoff_max_ms": "2000", "scrub_every_s": "1"}
    chance = draw.random()
    if chance < 0.08:
        found["standby"] = draw.choice((Tier.WARM, Tier.COLD))
    elif chance < 0.16:
        found["verify"] = VerifyMode.PAIR
    elif chance < 0.24:
        found |= {"verify": VerifyMode.REPLICAS, "replicas": "2"}
    elif chance < 0.32:
        found["replicas"] = "2"
    if draw.random() < 0.1:
        found["batch_rows_max"] = "8"
    if draw.random() < 0.1:
        found["shadow_ratio"] = "0.2"
    if draw.random() < 0.15:
        found["failback"] = draw.choice((Failback.MANUAL, Failback.NEVER))
    return tuple((name, str(text)) for name, text in sorted(found.items()))
