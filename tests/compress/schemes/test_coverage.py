import numpy as np
import onnx
import pytest
from tiny_models import onnx_in

from pipeline.compress.schemes.coverage import Coverage, Stored, coverage, require_coverage, sparsity, stored_weights
from pipeline.compress.schemes.tflite_file import constant_of, parse_tflite, write_tflite
from pipeline.compress.schemes.tflite_schemes import quantizable, quantize_tflite
from pipeline.core.errors import ModelError, SchemeRefused
from pipeline.core.names import Format, Scheme

MATRICES = 8 * 32 + 32 * 16 + 16 * 1
BIASES = 32 + 16  # the third has one element: not counted


def test_float_file_counts_every_matrix_and_bias_at_32_bits(dense_tflite: bytes, dense_onnx: bytes) -> None:
    for model_format, model in ((Format.TFLITE, dense_tflite), (Format.ONNX, dense_onnx)):
        weights = stored_weights(model_format, model)
        found = coverage(weights, weights)
        assert found.weight_count == MATRICES + BIASES
        assert found.weight_bits_mean == 32
        assert found.quantized_ratio == 0


def test_int8_weights_leave_float_biases(dense_tflite: bytes) -> None:
    candidate = quantize_tflite(quantizable(dense_tflite), Scheme.W8)
    found = coverage(stored_weights(Format.TFLITE, dense_tflite), stored_weights(Format.TFLITE, candidate))
    assert found.weight_count == MATRICES + BIASES
    assert found.weight_bits_mean == pytest.approx((8 * MATRICES + 32 * BIASES) / (MATRICES + BIASES))
    assert found.quantized_ratio == 1


def test_float16_weights_count_16_bits(dense_tflite: bytes) -> None:
    candidate = quantize_tflite(quantizable(dense_tflite), Scheme.F16)
    found = coverage(stored_weights(Format.TFLITE, dense_tflite), stored_weights(Format.TFLITE, candidate))
    assert found.weight_bits_mean == pytest.approx((16 * MATRICES + 32 * BIASES) / (MATRICES + BIASES))


def test_onnx_scales_and_zero_points_are_no_weights(dense_onnx: bytes) -> None:
    candidate = onnx_in(dense_onnx, Scheme.W8D)
    found = coverage(stored_weights(Format.ONNX, dense_onnx), stored_weights(Format.ONNX, candidate))
    assert found.weight_count == MATRICES + BIASES
    assert found.quantized_ratio == 1


def test_shapes_are_no_weights(embedding_tflite: bytes) -> None:
    count = sum(item.count for item in stored_weights(Format.TFLITE, embedding_tflite))
    assert count == 50 * 16 + 80 * 16 + 32 * 16 + 16 + 32


def test_zeros_are_found_in_float_and_in_what_is_made_of_it(dense_tflite: bytes, dense_onnx: bytes) -> None:
    model = parse_tflite(dense_tflite)
    matrix = next(t for t in model.subgraphs[0].tensors if list(t.shape) == [16, 32])
    values = np.frombuffer(bytes(constant_of(model, matrix)), np.float32).copy()
    values[:256] = 0
    model.buffers[matrix.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    pruned = write_tflite(model)
    assert sparsity(stored_weights(Format.TFLITE, pruned)) == pytest.approx(256 / (MATRICES + BIASES))
    # rounding adds a few zeros, it never removes one
    quantized = sparsity(stored_weights(Format.TFLITE, quantize_tflite(quantizable(pruned), Scheme.W8)))
    assert 256 / (MATRICES + BIASES) <= quantized < 300 / (MATRICES + BIASES)

    graph = onnx.load_from_string(dense_onnx)
    for item in graph.graph.initializer:
        if list(item.dims) == [32, 16]:
            item.CopyFrom(onnx.numpy_helper.from_array(values.reshape(16, 32).T.copy(), item.name))
    candidate = stored_weights(Format.ONNX, onnx_in(graph.SerializeToString(), Scheme.W8D))
    assert 256 / (MATRICES + BIASES) <= sparsity(candidate) < 300 / (MATRICES + BIASES)


def test_figures_by_hand() -> None:
    parent = (Stored(100, 32, 10, True), Stored(20, 32, 0, True))
    candidate = (Stored(100, 8, 25, False), Stored(20, 32, 0, True))
    assert coverage(parent, candidate) == Coverage(120, (100 * 8 + 20 * 32) / 120, pytest.approx(100 / 120), 25 / 120)


def test_scheme_that_misses_most_weights_is_refused_by_name() -> None:
    with pytest.raises(SchemeRefused, match=r"dense\.w8 stores only 40%"):
        require_coverage("dense.w8", Coverage(10, 20.0, 0.4, 0.0))
    require_coverage("dense.w8", Coverage(10, 20.0, 0.5, 0.0))


@pytest.mark.parametrize("model_format", list(Format))
def test_bytes_that_are_no_model(model_format: Format) -> None:
    with pytest.raises(ModelError):
        stored_weights(model_format, b"\0\0\0\0TFL3" + b"\xff" * 64)
