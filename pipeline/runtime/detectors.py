"""Detectors, pure: what is measured of a worker → a fault, or none. Times in milliseconds.

The heartbeat is the simplest sound form: a worker that owes an answer must give one within a fixed time, and the time
during which it was ready to run but got no processor does not count. An adaptive suspicion level (phi-accrual) would
only guess that share, which the kernel tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.runtime.members import Fault
from pipeline.runtime.procfs import ProcessSample
from pipeline.runtime.settings import Settings

PATIENCE_MS = 1000.0  # both sides late at once: the machine is at fault, and eviction would only add work
LARGE_WORK_FACTOR = 4.0  # a large batch may take so many times what it should by the baseline
SAMPLES_MIN = 10  # latencies from which a shift is believed
HEDGE_SAMPLES_MIN = 20
HEDGE_P99_FACTOR = 4.0
SLOW_RATIO = 4.0  # of the median at warm-up
SLOW_RATIO_ALONE = 8.0  # with nobody to compare with
SLOW_FLOOR_MS = 5.0  # a smaller shift hurts nobody
DRAG_ANSWERS = 5  # slow ones in a row, and together
DRAG_MS = 100.0  # in the engine: fewer could be one hiccup of the machine
FORGIVEN_BY_GOOD = 0.25  # a streak is 3 errors in a row, or more than one in five for long; 1 in 10 is none
HEDGE_RATIO = 0.05
HEDGE_BURST = 64.0  # a stopped worker at 100 requests a second is hedged 15 times before it is evicted


def hedge_after_ms(settings: Settings, recent_ms: Sequence[float]) -> float:
    """Return how long to wait for an answer before a second member is asked.

    Four times the 99th percentile of recent answer times, within the settings: in steady state far fewer than 5 % of
    requests are late. ``recent_ms`` are times of answers that nobody was hedged for; O(n log n), so not per request.
    """
    if len(recent_ms) < HEDGE_SAMPLES_MIN:
        return float(settings.hedge_max_ms)
    p99 = sorted(recent_ms)[(len(recent_ms) * 99 - 1) // 100]
    return min(max(HEDGE_P99_FACTOR * p99, settings.hedge_min_ms), settings.hedge_max_ms)


@dataclass(frozen=True, slots=True)
class HedgeBudget:
    """Keeps hedges to 5 % of requests beyond a burst: on an overloaded machine they would double the load."""

    tokens: float = HEDGE_BURST

    @property
    def allows(self) -> bool:
        """Tell whether a request may be hedged."""
        return self.tokens >= 1

    def on_request(self) -> "HedgeBudget":
        """Return the budget after one more request."""
        return self if self.tokens >= HEDGE_BURST else HedgeBudget(min(self.tokens + HEDGE_RATIO, HEDGE_BURST))

    def on_hedge(self) -> "HedgeBudget":
        """Return the budget after one more hedge."""
        return HedgeBudget(max(self.tokens - 1, 0.0))


@dataclass(frozen=True, slots=True)
class Streak:
    """Errors and withheld outputs of one member that are its own fault."""

    score: float = 0.0

    def on_good(self) -> "Streak":
        """Return the streak after a good answer."""
        return Streak(max(self.score - FORGIVEN_BY_GOOD, 0.0)) if self.score else self

    def on_bad(self, fault: Fault, other_side_ok: bool | None, settings: Settings) -> tuple["Streak", Fault | None]:
        """Return the streak after a bad answer, and the fault once there are too many.

        ``other_side_ok`` tells whether the other side answered the same request well, or the request is one whose
        answer is known. Where it failed too, or was not asked (None), the request may be to blame: a canary tells.
        """
        if not other_side_ok:
            return self, None
        streak = Streak(self.score + 1)
        return streak, fault if streak.score >= settings.errors_in_a_row else None


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known of one member from its answers."""

    streak: Streak = Streak()
    probes_ms: tuple[float, ...] = ()  # answer times of its last canaries: always the same work

    def on_good(self) -> "Watch":
        """Return the watch after a request was answered well."""
        return replace(self, streak=self.streak.on_good()) if self.streak.score else self

    def on_bad(self, fault: Fault, other_side_ok: bool | None, settings: Settings) -> tuple["Watch", Fault | None]:
        """Return the watch after a request was answered badly, and the fault once that is one; see :class:`Streak`."""
        streak, found = self.streak.on_bad(fault, other_side_ok, settings)
        return replace(self, streak=streak), found

    def on_canary(self, took_ms: float, matches: bool | None, settings: Settings) -> tuple["Watch", Fault | None]:
        """Return the watch after a canary's answer: right, wrong (a fault at once), or an error (None)."""
        if matches is None:
            return self.on_bad(Fault.ERRORS, other_side_ok=True, settings=settings)
        if not matches:
            return self, Fault.WRONG_ANSWER
        return replace(self, probes_ms=(*self.probes_ms[-2 * SAMPLES_MIN + 1 :], took_ms)), None


def overdue(
    age_ms: float,
    runqueue_wait_ms: float,
    process_state: str,
    settings: Settings,
    *,
    expected_ms: float = 0.0,
    other_late: bool = False,
) -> Fault | None:
    """Return the fault of a worker that owes an answer, or None while it may still give one.

    ``age_ms`` counts from when it was asked or last answered, whichever is later, and not while the server itself was
    late; ``runqueue_wait_ms`` is how much of that it waited for a processor. ``expected_ms`` is what the work should
    take by its baseline. ``other_late``: the other side owes an answer as long, to another request (two members late
    with the same request are that request's doing).
    """
    if process_state in ("T", "t"):
        return Fault.STOPPED if age_ms >= settings.hedge_min_ms else None
    if process_state in ("Z", "X"):
        return Fault.CRASH
    limit_ms = max(settings.evict_after_ms, LARGE_WORK_FACTOR * expected_ms)
    if other_late:
        limit_ms = max(limit_ms, PATIENCE_MS)
    return Fault.HANG if age_ms - runqueue_wait_ms >= limit_ms else None


def drags_above_ms(expected_ms: float) -> float:
    """Return the time in the engine above which an answer is slow that should take ``expected_ms``."""
    return max(SLOW_RATIO * expected_ms, expected_ms + SLOW_FLOOR_MS)


@dataclass(frozen=True, slots=True)
class Drag:
    """Slow answers in a row: since when, how the process stood then, how many followed and their time in the engine."""

    since_ms: float
    then: ProcessSample | None
    answers: int = 0
    engine_ms: float = 0.0

    @property
    def is_proven(self) -> bool:
        """Tell whether these are enough to blame somebody."""
        return self.answers >= DRAG_ANSWERS and self.engine_ms >= DRAG_MS


@dataclass(frozen=True, slots=True)
class Baseline:
    """Answer times of a member that were measured when it was warm and idle."""

    p50_ms: float
    p99_ms: float


def latency_shift(
    recent_ms: Sequence[float],
    baseline: Baseline,
    other_ms: Sequence[float] = (),
    other_baseline: Baseline | None = None,
) -> Fault | None:
    """Return SLOW when recent answers to the same work are far above the member's own baseline, and only its own.

    A ramp is found like a step, since the baseline does not move. Where the other side has slowed down nearly as much
    the machine is loaded, and nobody is at fault.
    """
    if len(recent_ms) < SAMPLES_MIN:
        return None
    median_ms = _median(recent_ms[-SAMPLES_MIN:])
    ratio = median_ms / max(baseline.p50_ms, 1e-3)
    is_far = median_ms > 2 * baseline.p99_ms and median_ms - baseline.p50_ms > SLOW_FLOOR_MS
    if not is_far or ratio < SLOW_RATIO:
        return None
    if other_baseline is None or len(other_ms) < SAMPLES_MIN:
        is_lasting = len(recent_ms) >= 2 * SAMPLES_MIN and _median(recent_ms[:-SAMPLES_MIN]) > median_ms / 2
        return Fault.SLOW if ratio >= SLOW_RATIO_ALONE and is_lasting else None
    other_ratio = _median(other_ms[-SAMPLES_MIN:]) / max(other_baseline.p50_ms, 1e-3)
    return Fault.SLOW if ratio > SLOW_RATIO * max(other_ratio, 1.0) else None


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def memory_growth(rss_bytes: int, baseline_bytes: int, settings: Settings) -> Fault | None:
    """Return MEMORY_GROWTH when a worker's resident memory is too far above what it was after warm-up."""
    return Fault.MEMORY_GROWTH if rss_bytes - baseline_bytes > settings.memory_growth_mb << 20 else None
