from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.search.divergence import Yardstick, divergence, yardstick
from pipeline.core.errors import ModelError
from pipeline.core.recipe import Metric

KL, NOISE, COSINE = Yardstick("kl"), Yardstick("noise_to_signal"), Yardstick("cosine_distance")


def softmax_rows(seed: int, rows: int = 40, columns: int = 5) -> np.ndarray:
    values = np.exp(np.random.default_rng(seed).normal(size=(rows, columns)))
    return (values / values.sum(1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def entropy() -> Callable[..., Any]:
    from scipy import stats

    return stats.entropy


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_of_softmax_rows_it_is_the_kullback_leibler_divergence_from_the_float_answers(
    entropy: Callable[..., Any], seed: int
) -> None:
    wanted, found = softmax_rows(seed), softmax_rows(seed + 1)
    oracle = float(np.mean(entropy(wanted.astype(np.float64), found.astype(np.float64), axis=1)))
    assert divergence(KL, {"p": found}, {"p": wanted}) == pytest.approx(oracle, rel=1e-4)


def test_of_a_sigmoid_column_both_outcomes_count(entropy: Callable[..., Any]) -> None:
    found, wanted = np.array([[0.1], [0.9]]), np.array([[0.2], [0.9]])
    oracle = float(entropy([0.2, 0.8], [0.1, 0.9])) / 2
    assert divergence(KL, {"p": found}, {"p": wanted}) == pytest.approx(oracle)


@pytest.mark.parametrize("how", [KL, NOISE, COSINE, Yardstick("kl", logits=True)])
def test_equal_answers_do_not_diverge_and_certain_ones_stay_finite(how: Yardstick) -> None:
    answers = {"a": np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])}
    assert divergence(how, answers, answers) == pytest.approx(0.0, abs=1e-12)
    other = {"a": np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])}
    assert np.isfinite(divergence(how, other, answers))
    assert divergence(how, other, answers) > 0.1


def test_noise_is_measured_against_the_spread_of_the_float_answers() -> None:
    wanted = np.array([[10.0], [12.0]])
    assert divergence(NOISE, {"y": wanted + 0.1}, {"y": wanted}) == pytest.approx(0.01)
    assert divergence(NOISE, {"y": wanted * 100 + 10}, {"y": wanted * 100}) == pytest.approx(0.01)


def test_a_longer_vector_in_the_same_direction_does_not_diverge() -> None:
    vectors = np.random.default_rng(0).normal(size=(10, 16))
    assert divergence(COSINE, {"v": 3 * vectors}, {"v": vectors}) == pytest.approx(0.0, abs=1e-12)
    assert divergence(COSINE, {"v": -vectors}, {"v": vectors}) == pytest.approx(2.0)


def test_outputs_are_averaged() -> None:
    one, other = np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]])
    both = {"a": one, "b": other}
    assert divergence(NOISE, {"a": one + 1, "b": other}, both) == pytest.approx(0.5)


def test_answers_of_another_shape_or_that_are_not_finite_are_a_model_error() -> None:
    wanted = {"p": np.zeros((3, 1))}
    with pytest.raises(ModelError, match="shape"):
        divergence(KL, {"p": np.zeros((3, 2))}, wanted)
    with pytest.raises(ModelError, match="overflow"):
        divergence(KL, {"p": np.array([[0.0], [np.nan], [0.0]])}, wanted)


@pytest.mark.parametrize(
    ("metric", "answers", "inputs", "measure"),
    [
        (Metric.ACCURACY, softmax_rows(0), (40, 8), KL),
        (Metric.AUC, np.full((40, 1), 0.5), (40, 8), KL),
        (Metric.ACCURACY, np.random.default_rng(0).normal(size=(40, 5)), (40, 8), Yardstick("kl", logits=True)),
        (Metric.RMSE, np.full((40, 1), 0.5), (40, 8), NOISE),
        (Metric.FIDELITY, np.random.default_rng(0).normal(size=(40, 16)), (40, 8), COSINE),
        (Metric.FIDELITY, np.random.default_rng(0).normal(size=(40, 16)), (40, 16), NOISE),
        (Metric.FIDELITY, np.random.default_rng(0).random((40, 28, 28, 1)), (40, 28, 28, 1), NOISE),
        (Metric.HIT_RATE_AT_10, np.random.default_rng(0).normal(size=(40, 32)), (40, 8), COSINE),
        (Metric.AUC, np.random.default_rng(0).normal(size=(40, 1)), (40, 8), NOISE),
    ],
)
def test_measure_follows_from_the_float_answers_and_the_metric(
    metric: Metric, answers: np.ndarray, inputs: tuple[int, ...], measure: Yardstick
) -> None:
    assert yardstick(metric, {"a": answers}, {"x": np.zeros(inputs, np.float32)}) == measure
