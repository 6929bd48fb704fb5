"""What a few plays can claim."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played import killed, lost, script
from scipy.special import bdtr, bdtrc

from pipeline.core.errors import UsageError
from pipeline.drill.confidence import over_repeats, share, times
from pipeline.drill.measures import measure
from pipeline.drill.verdict import Verdict, judge

PASSED = Verdict(True)
SOME_MS = st.lists(st.floats(0, 1e4), min_size=1, max_size=60)


@given(st.integers(1, 200), st.data())
def test_a_share_s_bounds_are_where_what_was_seen_becomes_improbable(of: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, of))
    found = share(hits, of)
    tail = 0.05 if hits in (0, of) else 0.025
    assert found.low <= hits / of <= found.high
    assert hits == 0 or bdtrc(hits - 1, of, found.low) == pytest.approx(tail, rel=1e-6)
    assert hits == of or bdtr(hits, of, found.high) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("of", [30, 100, 300])
def test_nothing_seen_is_the_rule_of_three(of: int) -> None:
    found = share(0, of)
    assert found.low == 0
    assert found.high == pytest.approx(3 / of, rel=0.06)


def test_nothing_is_known_after_no_play() -> None:
    assert (share(0, 0).low, share(0, 0).high) == (0.0, 1.0)
    assert times([]) is None


def test_a_count_beyond_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no share"):
        share(3, 2)


@given(SOME_MS)
def test_bounds_of_times_hold_the_median_and_are_times_that_were_seen(values: list[float]) -> None:
    found = times(values)
    assert found is not None
    assert found.worst_ms == max(values)
    if found.low_ms is not None and found.high_ms is not None:
        assert {found.low_ms, found.high_ms} <= set(values)
        assert found.low_ms <= found.median_ms <= found.high_ms


@pytest.mark.parametrize(("of", "left_out"), [(5, None), (6, 0), (9, 1), (20, 5), (30, 9)])
def test_bounds_of_the_median_are_those_of_the_sign_test(of: int, left_out: int | None) -> None:
    found = times([float(number) for number in range(of)])
    assert found is not None
    assert found.low_ms == left_out
    assert found.high_ms == (None if left_out is None else of - 1 - left_out)


def test_how_far_the_worst_of_some_plays_reaches() -> None:
    found = times([1.0] * 59)
    assert found is not None
    assert found.worse_max == pytest.approx(0.05, abs=0.001)  # 59 plays: 95 % sure of 95 % of all
    assert "worst of 59: 1 ms" in found.in_words()


def test_repeats_count_plays_and_not_requests() -> None:
    good, bad = measure(script(), killed()), measure(script(), killed(requests={60: lost(60), 61: lost(61)}))
    left_out = replace(good, left_out="it needs root")
    plays = [(one, judge(script().objectives, one)) for one in (good, bad, good, left_out)]
    found = over_repeats(plays)
    assert (found.passed.hits, found.passed.of) == (2, 3)
    assert (found.events["lost"].hits, found.events["wrong"].hits) == (1, 0)
    assert found.times["mttd_ms"].of == 3
    assert found.times["rto_ms"].worst_ms > found.times["rto_ms"].median_ms == 0
    assert "2 of 3 plays" in found.passed.in_words()


def test_times_that_no_play_has_are_left_out() -> None:
    quiet = measure(script("# r\nload constant 100/s for 2s"), killed(moments=()))
    assert "mttd_ms" not in over_repeats([(quiet, PASSED)]).times


def test_a_time_that_one_play_never_came_to_is_claimed_of_none() -> None:
    """It counted as 0 ms, or not at all: the median of three plays was better for the one that failed."""
    good = measure(script(), killed())
    requests = {number: lost(number) for number in range(60, len(killed().requests))}
    never = measure(script(), killed(requests=requests))
    assert never.unrestored == 1
    found = over_repeats([(good, PASSED), (never, PASSED), (good, PASSED)])
    assert "rto_ms" not in found.times
    assert found.events["unrestored"].hits == 1
    unnoticed = replace(good, unnoticed=1, mttd_ms=None)
    assert "mttd_ms" not in over_repeats([(good, PASSED), (unnoticed, PASSED)]).times


def test_a_play_that_failed_by_its_transcript_is_not_claimed_to_have_passed() -> None:
    good = measure(script(), killed())
    found = over_repeats([(good, PASSED), (good, Verdict(False, ("transcript: line 1 differs",)))])
    assert (found.passed.hits, found.passed.of) == (1, 2)
