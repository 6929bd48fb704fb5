import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.compress.schemes.ranges import Clipping, Histogram, Range, RangeRecorder
from pipeline.core.errors import DataError
from pipeline.core.tensors import Array

VALUES = arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e6, 1e6, width=32))


def recorded(clipping: Clipping, parts: list[Array]) -> Range:
    recorder = RangeRecorder(clipping)
    for part in parts:
        recorder.add("x", part)
    return recorder.ranges()["x"]


@settings(deadline=None)
@given(VALUES, st.integers(0, 200))
@example(np.float32([1.1754944e-38, 1.0]), 1)  # widths that differ by more than any integer
@example(np.float32([0.99999994, 1.0]), 1)  # a range that is tiny beside its values, across a power of two
def test_histogram_does_not_depend_on_how_the_stream_was_cut(values: Array, cut: int) -> None:
    whole, parts = Histogram(), Histogram()
    seen = Range(float(values.min()), float(values.max()))
    whole.add(values, seen)
    first = values[:cut]
    if first.size:
        parts.add(first, Range(float(first.min()), float(first.max())))
    parts.add(values[cut:], seen)
    assert whole.counts.sum() + whole.zeros == parts.counts.sum() + parts.zeros == values.size
    assert (parts.width, parts.first) == (whole.width, whole.first)
    np.testing.assert_array_equal(parts.counts, whole.counts)


@settings(deadline=None)
@given(VALUES, st.sampled_from(Clipping))
def test_range_lies_within_what_was_seen(values: Array, clipping: Clipping) -> None:
    found = recorded(clipping, [values])
    assert float(values.min()) <= found.low <= found.high <= float(values.max())


def test_true_range_is_exact() -> None:
    assert recorded(Clipping.NONE, [np.float32([1, 2]), np.float32([-3])]) == Range(-3.0, 2.0)


def test_one_value_in_a_million_is_clipped() -> None:
    values = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    parts = [values, np.float32([1000])]
    assert recorded(Clipping.PERCENTILE, parts).high < 10
    assert recorded(Clipping.MSE, parts).high < 1000
    assert recorded(Clipping.NONE, parts).high == 1000


def test_equal_streams_give_equal_ranges() -> None:
    values = np.random.default_rng(1).normal(size=(4, 100_000)).astype(np.float32)
    assert recorded(Clipping.MSE, [values]) == recorded(Clipping.MSE, [values])


def test_nan_and_no_rows_are_told() -> None:
    with pytest.raises(DataError, match="'x'"):
        recorded(Clipping.NONE, [np.float32([np.nan])])
    with pytest.raises(DataError, match="at least one row"):
        RangeRecorder(Clipping.NONE).ranges()
