"""Detectors against the gray faults they are for, and against the noise that is none."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.detectors import (
    Baseline,
    HedgeBudget,
    Watch,
    hedge_after_ms,
    latency_shift,
    memory_growth,
    overdue,
)
from pipeline.runtime.members import Fault
from pipeline.runtime.settings import Settings

SETTINGS = Settings()
CALM = Baseline(p50_ms=1.0, p99_ms=3.0)


def test_a_silent_worker_is_hung_after_its_time_and_not_before() -> None:
    assert overdue(149, 0, "S", SETTINGS) is None
    assert overdue(150, 0, "S", SETTINGS) is Fault.HANG


def test_time_that_a_worker_waited_for_a_processor_does_not_count() -> None:
    assert overdue(900, 800, "R", SETTINGS) is None
    assert overdue(950, 800, "R", SETTINGS) is Fault.HANG


def test_a_stopped_worker_is_not_waited_for() -> None:
    assert overdue(5, 0, "T", SETTINGS) is None  # owes nothing for long enough to matter
    assert overdue(10, 0, "T", SETTINGS) is Fault.STOPPED
    assert overdue(10, 0, "t", SETTINGS, other_late=True) is Fault.STOPPED


def test_both_late_at_once_is_the_machine_for_a_second() -> None:
    assert overdue(999, 0, "R", SETTINGS, other_late=True) is None
    assert overdue(1000, 0, "R", SETTINGS, other_late=True) is Fault.HANG


def test_a_large_batch_may_take_its_time() -> None:
    assert overdue(300, 0, "R", SETTINGS, expected_ms=100) is None
    assert overdue(400, 0, "R", SETTINGS, expected_ms=100) is Fault.HANG


def judged(outcomes: str, other_side_ok: bool | None = True) -> int | None:
    """Return after how many outcomes ('.' good, 'x' bad) a member is at fault."""
    watch = Watch()
    for number, outcome in enumerate(outcomes, 1):
        if outcome == ".":
            watch = watch.on_good()
            continue
        watch, fault = watch.on_bad(Fault.ERRORS, other_side_ok, SETTINGS)
        if fault is not None:
            return number
    return None


@pytest.mark.parametrize(
    ("outcomes", "at"),
    [("xxx", 3), ("xx.x", None), ("..x" * 100, 15), ("." * 9 + "x", None), (("." * 9 + "x") * 50, None)],
)
def test_errors_in_a_row_or_too_often_are_a_fault_and_rare_ones_are_not(outcomes: str, at: int | None) -> None:
    assert judged(outcomes) == at


@pytest.mark.parametrize("other_side_ok", [False, None])
def test_nobody_is_blamed_for_what_the_other_side_cannot_do_or_was_not_asked(other_side_ok: bool | None) -> None:
    assert judged("x" * 1000, other_side_ok) is None


def test_a_wrong_canary_is_a_fault_at_once_and_one_that_errs_counts_as_an_error() -> None:
    assert Watch().on_canary(1.0, matches=False, settings=SETTINGS)[1] is Fault.WRONG_ANSWER
    watch, fault = Watch(), None
    for _ in range(3):
        assert fault is None
        watch, fault = watch.on_canary(1.0, matches=None, settings=SETTINGS)
    assert fault is Fault.ERRORS


def test_a_watch_keeps_the_times_of_its_last_canaries_only() -> None:
    watch = Watch()
    for number in range(100):
        watch, _ = watch.on_canary(float(number), matches=True, settings=SETTINGS)
    assert watch.probes_ms == tuple(float(number) for number in range(80, 100))


def first_slow(times_ms: list[float], others_ms: list[float] | None = None) -> int | None:
    for count in range(1, len(times_ms) + 1):
        window = times_ms[max(0, count - 20) : count]
        around = () if others_ms is None else tuple(others_ms[max(0, count - 20) : count])
        if latency_shift(window, CALM, around, None if others_ms is None else CALM):
            return count
    return None


def test_half_a_second_more_is_found_within_ten_probes() -> None:
    assert first_slow([1.0] * 20 + [501.0] * 10, [1.0] * 30) in range(25, 31)


def test_a_ramp_is_found_although_no_step_is_large() -> None:
    times = [1.0 + 0.1 * number for number in range(300)]
    found = first_slow(times, [1.0] * 300)
    assert found is not None
    assert times[found - 1] < 15


def test_a_loaded_machine_slows_both_and_blames_nobody() -> None:
    assert first_slow([1.0] * 20 + [40.0] * 50, [1.0] * 20 + [30.0] * 50) is None


def test_alone_it_takes_more_and_longer() -> None:
    assert first_slow([1.0] * 20 + [6.5] * 50) is None
    assert first_slow([1.0] * 20 + [40.0] * 10) is None
    assert first_slow([1.0] * 20 + [40.0] * 30) is not None


def test_a_shift_too_small_to_hurt_is_none() -> None:
    fast = Baseline(0.05, 0.06)
    assert latency_shift([0.5] * 20, fast, [0.05] * 20, fast) is None


@pytest.mark.parametrize("seed", range(5))
def test_noise_with_rare_long_tails_is_no_shift(seed: int) -> None:
    drawn = random.Random(seed)
    times = [drawn.lognormvariate(0, 0.5) * (30 if drawn.random() < 0.05 else 1) for _ in range(2000)]
    assert first_slow(times, [1.0] * 2000) is None


def test_memory_grows_only_above_its_limit() -> None:
    limit = SETTINGS.memory_growth_mb << 20
    assert memory_growth(10 + limit, 10, SETTINGS) is None
    assert memory_growth(11 + limit, 10, SETTINGS) is Fault.MEMORY_GROWTH


@given(st.lists(st.floats(0, 1e6), max_size=300))
def test_a_hedge_is_due_within_the_settings(recent: list[float]) -> None:
    assert SETTINGS.hedge_min_ms <= hedge_after_ms(SETTINGS, recent) <= SETTINGS.hedge_max_ms


@pytest.mark.parametrize("median_ms", [0.3, 1.0, 3.0])
def test_in_steady_state_hardly_any_request_is_hedged(median_ms: float) -> None:
    drawn = random.Random(1)
    times = [median_ms * drawn.lognormvariate(0, 0.5) for _ in range(5000)]
    hedged = sum(times[n] > hedge_after_ms(SETTINGS, times[n - 200 : n]) for n in range(200, 5000))
    assert hedged / 4800 <= 0.01


def test_hedges_are_at_most_one_in_twenty_beyond_a_burst() -> None:
    budget, hedges = HedgeBudget(), 0
    for _ in range(10_000):
        budget = budget.on_request()
        if budget.allows:
            budget, hedges = budget.on_hedge(), hedges + 1
    assert 500 <= hedges <= 500 + 64
