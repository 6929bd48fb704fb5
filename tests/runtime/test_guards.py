import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.bundle.io_contract import IoContract, OutputRule, TensorContract
from pipeline.runtime.guards import Guard


def _io(*rules: OutputRule, shape: tuple[int, ...] = (-1, 3), dtype: str = "float32") -> IoContract:
    return IoContract(
        1, (TensorContract("x", "float32", (-1, 4)),), (TensorContract("y", dtype, shape),), rules, "notes"
    )


DECLARED = OutputRule("y", 0.0, 1.0, simplex=False, source="declared")
SIMPLEX = OutputRule("y", 0.0, 1.0, simplex=True, source="declared")
OBSERVED = OutputRule("y", -2.0, 3.0, simplex=False, source="observed")
SHAPES = st.tuples(st.integers(1, 30), st.just(3))


@given(hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32)))
def test_every_answer_within_the_declared_range_passes(values: np.ndarray) -> None:
    assert Guard(_io(DECLARED)).check({"y": values}, len(values)) is None


@given(
    values=hnp.arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32)),
    bad=st.sampled_from([np.nan, np.inf, -np.inf, -0.001, 1.001, 1e30]),
    place=st.integers(0, 10**6),
)
def test_one_bad_value_anywhere_is_never_released(values: np.ndarray, bad: float, place: int) -> None:
    values.flat[place % values.size] = bad
    assert "y" in str(Guard(_io(DECLARED)).check({"y": values}, len(values)))


@given(values=hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=True, allow_infinity=True)))
def test_without_a_rule_finite_answers_pass_and_others_do_not(values: np.ndarray) -> None:
    assert (Guard(_io()).check({"y": values}, len(values)) is None) == bool(np.isfinite(values).all())


@given(hnp.arrays(np.float64, SHAPES, elements=st.floats(0.01, 1)))
def test_probabilities_must_sum_to_one(raw: np.ndarray) -> None:
    guard = Guard(_io(SIMPLEX))
    whole = (raw / raw.sum(axis=1, keepdims=True)).astype(np.float32)
    assert guard.check({"y": whole}, len(whole)) is None
    whole[-1] *= 0.9
    assert "sum to 0.9" in str(guard.check({"y": whole}, len(whole)))


@given(
    shape=hnp.array_shapes(min_dims=1, max_dims=3, max_side=4),
    dtype=st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_]),
    rows=st.integers(1, 4),
)
def test_only_the_agreed_shape_and_dtype_pass(shape: tuple[int, ...], dtype: type, rows: int) -> None:
    problem = Guard(_io(DECLARED)).check({"y": np.zeros(shape, dtype)}, rows)
    assert (problem is None) == (shape == (rows, 3) and dtype is np.float32)


@pytest.mark.parametrize(
    ("shape", "passes"), [((2, 7, 5), True), ((2, 0, 5), True), ((2, 7, 4), False), ((2, 7), False)]
)
def test_a_free_axis_takes_any_length(shape: tuple[int, ...], passes: bool) -> None:
    problem = Guard(_io(shape=(-1, -1, 5))).check({"y": np.zeros(shape, np.float32)}, 2)
    assert (problem is None) == passes


@pytest.mark.parametrize("outputs", [{}, {"z": np.zeros((1, 3), np.float32)}, {"y": None, "z": None}])
def test_missing_and_surplus_outputs_are_told(outputs) -> None:
    assert Guard(_io()).check(outputs, 1) is not None


def test_an_observed_range_has_a_wide_margin_because_rare_rows_lie_outside() -> None:
    guard = Guard(_io(OBSERVED))
    assert guard.check({"y": np.array([[-40, 0, 40]], np.float32)}, 1) is None
    assert "-52 to 53 was agreed" in str(guard.check({"y": np.array([[0, 0, 60]], np.float32)}, 1))


def test_an_output_that_was_always_zero_has_no_range() -> None:
    rule = OutputRule("y", 0.0, 0.0, simplex=False, source="observed")
    assert Guard(_io(rule)).check({"y": np.array([[5, 0, 0]], np.float32)}, 1) is None


def test_rounding_above_one_is_no_fault() -> None:
    assert Guard(_io(DECLARED)).check({"y": np.array([[1 + 1e-6, 0, -1e-6]], np.float32)}, 1) is None


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "bool"])
def test_outputs_that_are_no_floats_are_guarded_too(dtype: str) -> None:
    guard = Guard(_io(DECLARED, dtype=dtype))
    assert guard.check({"y": np.ones((2, 3), dtype)}, 2) is None
    if dtype != "bool":
        assert guard.check({"y": np.full((2, 3), 2, dtype)}, 2) is not None
