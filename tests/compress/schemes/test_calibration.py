import numpy as np
import pytest
from tiny_models import dense_rows, embedding_rows

from pipeline.compress.schemes.calibration import Range, activation_ranges
from pipeline.compress.schemes.tflite_file import constant_of, parse_tflite
from pipeline.core.errors import DataError
from pipeline.core.tensors import Array


def _constant(model: object, shape: list[int]) -> Array:
    tensor = next(t for t in model.subgraphs[0].tensors if list(t.shape) == shape)  # type: ignore[attr-defined]
    return np.frombuffer(bytes(constant_of(model, tensor)), np.float32).reshape(shape)


def test_range_of_a_hidden_layer_equals_a_numpy_oracle(dense_tflite: bytes) -> None:
    inputs, _ = dense_rows(500, seed=5)
    model = parse_tflite(dense_tflite)
    hidden = np.maximum(inputs["features"] @ _constant(model, [32, 8]).T + _constant(model, [32]), 0)
    ranges = activation_ranges(dense_tflite, [inputs])
    found = next(item for name, item in ranges.items() if "hidden_1" in name)
    assert found.low == 0
    assert found.high == pytest.approx(float(hidden.max()), rel=1e-5)
    features = next(item for name, item in ranges.items() if "features" in name)
    assert features == Range(float(inputs["features"].min()), float(inputs["features"].max()))


def test_streaming_equals_the_whole(embedding_tflite: bytes) -> None:
    rows = embedding_rows(257, seed=1)
    parts = [{name: array[start : start + 10] for name, array in rows.items()} for start in range(0, 257, 10)]
    streamed, whole = activation_ranges(embedding_tflite, iter(parts)), activation_ranges(embedding_tflite, [rows])
    assert streamed.keys() == whole.keys()
    for name, item in whole.items():  # kernels may sum in another order for another batch
        assert (streamed[name].low, streamed[name].high) == pytest.approx((item.low, item.high), rel=1e-5, abs=1e-7)


def test_one_batch_at_a_time_is_asked_for(dense_tflite: bytes) -> None:
    inputs, _ = dense_rows(8, seed=0)
    alive = []

    def stream() -> object:
        for _ in range(5):
            alive.append(len(alive))
            yield inputs

    assert activation_ranges(dense_tflite, stream())
    assert len(alive) == 5


def test_weights_are_not_calibrated(dense_tflite: bytes) -> None:
    # a range for a weight would make the quantizer fall back from one scale a channel to one scale
    inputs, _ = dense_rows(10, seed=0)
    model = parse_tflite(dense_tflite)
    constants = {t.name.decode() for t in model.subgraphs[0].tensors if constant_of(model, t) is not None}
    assert constants
    assert not constants & activation_ranges(dense_tflite, [inputs]).keys()


def test_rows_that_overflow_are_the_datas_fault(dense_tflite: bytes) -> None:
    inputs, _ = dense_rows(10, seed=0)
    inputs["features"][3, 2] = np.inf
    with pytest.raises(DataError, match=r"data\.calibration"):
        activation_ranges(dense_tflite, [inputs])


def test_id_beyond_its_table_is_the_datas_fault(embedding_tflite: bytes) -> None:
    rows = embedding_rows(10, seed=0)
    rows["user"][4] = 50
    with pytest.raises(DataError, match="Calibration rows"):
        activation_ranges(embedding_tflite, [rows])


def test_no_rows(dense_tflite: bytes) -> None:
    with pytest.raises(DataError, match="at least one row"):
        activation_ranges(dense_tflite, [])
