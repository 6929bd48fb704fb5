import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundle.learning import Learning, Span
from pipeline.core.canonical import readable_json
from pipeline.core.errors import DataError, Malformed, ModelError
from pipeline.core.schema import plain
from pipeline.online.learner import Head, admit, read_head, replay, with_head
from pipeline.online.records import PAYLOAD_BYTES_MAX
from pipeline.online.settings import require_room

WIDTH = 6
LEARNING = Learning(1, Span(8, WIDTH), Span(40, 1), 0.1, 1e-3, 3.0)
START = Head(np.linspace(-1, 1, WIDTH).astype("<f4").tobytes(), np.float32(0.2).tobytes())


def updates(count: int, seed: int) -> list[bytes]:
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(count, WIDTH)).astype(np.float32)
    return [admit(place.to_bytes(16, "big"), float(row[0] > 0), row, LEARNING) for place, row in enumerate(rows)]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 99))
def test_a_checkpoint_and_the_rest_of_the_log_give_the_bytes_of_the_whole_log(
    before: int, after: int, seed: int
) -> None:
    log = updates(before + after, seed)
    halfway = replay(START, log[:before], LEARNING)
    stored = read_head(with_head(bytes(64), LEARNING, halfway), LEARNING)
    assert replay(stored, log[before:], LEARNING) == replay(START, log, LEARNING)


def test_one_update_is_one_step_of_logistic_regression() -> None:
    row = np.array([0.5, -1, 2, 0, 1, -0.25], np.float32)
    weights, bias = np.frombuffer(START.weights, "<f4").astype(float), 0.2
    error = 1 / (1 + math.exp(-(weights @ row + bias))) - 1.0
    head = replay(START, [admit(bytes(16), 1.0, row, LEARNING)], LEARNING)
    expected = weights - 0.1 * (error * row + 1e-3 * weights)
    np.testing.assert_allclose(np.frombuffer(head.weights, "<f4"), expected, rtol=1e-6)
    np.testing.assert_allclose(np.frombuffer(head.bias, "<f4"), [bias - 0.1 * error], rtol=1e-6)


def test_learning_separates_what_the_labels_separate() -> None:
    head = replay(START, updates(600, 1), LEARNING)
    weights = np.abs(np.frombuffer(head.weights, "<f4"))
    assert weights.argmax() == 0


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=WIDTH, max_size=WIDTH),
    st.sampled_from([0.0, 1.0]),
)
def test_no_update_drives_the_weights_out_of_bounds(row: list[float], label: float) -> None:
    head = replay(START, [admit(bytes(16), label, np.array(row, np.float32), LEARNING)] * 2, LEARNING)
    assert np.all(np.abs(np.frombuffer(head.weights + head.bias, "<f4")) <= LEARNING.weight_max)


@pytest.mark.parametrize(("label", "value"), [(2.0, 0.0), (math.nan, 0.0), (1.0, math.inf), (1.0, math.nan)])
def test_updates_that_are_no_numbers_are_refused_before_they_are_logged(label: float, value: float) -> None:
    with pytest.raises(DataError):
        admit(bytes(16), label, np.full(WIDTH, value, np.float32), LEARNING)


def test_a_logged_update_that_does_not_fit_is_refused() -> None:
    with pytest.raises(Malformed):
        replay(START, [b"short"], LEARNING)


def test_a_base_whose_updates_or_start_would_not_fit_is_refused_before_a_member_starts(learning) -> None:
    base = learning.base()
    require_room(base)
    wide = readable_json(plain(Learning(1, Span(0, PAYLOAD_BYTES_MAX // 4), Span(1 << 20, 1), 0.1, 1e-3, 3.0)))
    with pytest.raises(ModelError, match="fewer numbers"):
        require_room(replace(base, files={**base.files, "learning.json": wide}))
    with pytest.raises(ModelError, match="too many to lend"):
        require_room(replace(base, files={**base.files, "golden/outputs.npz": bytes(1 << 20)}))
