import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODELS, answers, dense_rows, embedding_rows, onnx_in

from pipeline.compress.schemes.calibration import activation_ranges
from pipeline.compress.schemes.tflite_file import operators, parse_tflite, write_tflite
from pipeline.compress.schemes.tflite_schemes import quantizable, quantize_tflite
from pipeline.core.errors import ModelError, SchemeRefused
from pipeline.core.names import Format, Scheme
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

SCHEMES = [Scheme.F16, Scheme.W8, Scheme.W8D, Scheme.W8A8]
ONNX_SCHEMES = [Scheme.F16, Scheme.W8, Scheme.W8D, Scheme.W8A8]


def in_tflite(parent: bytes, scheme: Scheme, inputs: dict[str, Array]) -> bytes:
    prepared = quantizable(parent)
    return quantize_tflite(prepared, scheme, activation_ranges(prepared, [inputs]) if scheme is Scheme.W8A8 else None)


def agreement(found: Array, wanted: Array) -> float:
    return float(np.mean((found > 0.5) == (wanted > 0.5)))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tflite_decides_as_float_does_and_keeps_its_tensors(dense_tflite: bytes, scheme: Scheme) -> None:
    candidate = in_tflite(dense_tflite, scheme, dense_rows(600, seed=1)[0])
    inputs, _ = dense_rows(1000, seed=2)
    wanted = answers(Format.TFLITE, dense_tflite, inputs)
    found = answers(Format.TFLITE, candidate, inputs)
    assert agreement(found, wanted) >= 0.985
    assert np.mean(np.abs(found - wanted)) <= 0.01
    before, after = open_session(Format.TFLITE, dense_tflite), open_session(Format.TFLITE, candidate)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


@pytest.mark.parametrize("scheme", ONNX_SCHEMES)
def test_onnx_decides_as_float_does_and_keeps_its_tensors(dense_onnx: bytes, scheme: Scheme) -> None:
    candidate = onnx_in(dense_onnx, scheme, [dense_rows(600, seed=1)[0]])
    inputs, _ = dense_rows(1000, seed=2)
    wanted, found = answers(Format.ONNX, dense_onnx, inputs), answers(Format.ONNX, candidate, inputs)
    assert agreement(found, wanted) >= 0.985
    before, after = open_session(Format.ONNX, dense_onnx), open_session(Format.ONNX, candidate)
    assert [(t.name, t.dtype) for t in after.inputs] == [(t.name, t.dtype) for t in before.inputs]
    assert [(t.name, t.dtype) for t in after.outputs] == [(t.name, t.dtype) for t in before.outputs]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tflite_is_the_same_bytes_twice(embedding_tflite: bytes, scheme: Scheme) -> None:
    rows = embedding_rows(300, seed=1)
    assert in_tflite(embedding_tflite, scheme, rows) == in_tflite(embedding_tflite, scheme, rows)


@pytest.mark.parametrize("scheme", ONNX_SCHEMES)
def test_onnx_is_the_same_bytes_twice(embedding_onnx: bytes, scheme: Scheme) -> None:
    rows = embedding_rows(300, seed=1)
    assert onnx_in(embedding_onnx, scheme, [rows]) == onnx_in(embedding_onnx, scheme, [rows])


@pytest.mark.parametrize("scheme", ONNX_SCHEMES)
def test_onnx_tables_are_quantized(embedding_onnx: bytes, scheme: Scheme) -> None:
    rows = embedding_rows(300, seed=1)
    candidate = onnx_in(embedding_onnx, scheme, [rows])
    np.testing.assert_allclose(
        answers(Format.ONNX, candidate, rows), answers(Format.ONNX, embedding_onnx, rows), atol=0.02
    )


def test_onnx_has_no_int16_activations(dense_onnx: bytes) -> None:
    with pytest.raises(SchemeRefused, match="w8a16 is made for tflite alone"):
        onnx_in(dense_onnx, Scheme.W8A16, [dense_rows(20, seed=1)[0]])


def test_scales_a_channel_are_stated_in_the_operator_versions(embedding_tflite: bytes) -> None:
    # without them tflite-runtime 2.14 loads the file and answers wrongly; with them it refuses it
    model = parse_tflite(quantize_tflite(quantizable(embedding_tflite), Scheme.W8D))
    versions = {code.builtinCode: code.version for code in model.operatorCodes}
    assert versions[schema.BuiltinOperator.FULLY_CONNECTED] >= 12


def test_buffers_stay_inside_the_flatbuffer() -> None:
    model = parse_tflite((MODELS / "tiny_dense.tflite").read_bytes())
    written = parse_tflite(write_tflite(model))
    assert all(not buffer.offset for buffer in written.buffers)
    assert list(operators(written, schema.BuiltinOperator.FULLY_CONNECTED))


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 4000))
def test_truncated_model_is_a_model_error_or_none(cut: int) -> None:
    whole = (MODELS / "tiny_dense.tflite").read_bytes()
    with pytest.raises(ModelError):
        quantizable(whole[:cut])


@pytest.mark.parametrize("model", [b"", b"not a model at all", b"\x1c\0\0\0TFL3" + b"\xff" * 100])
def test_garbage_is_a_model_error(model: bytes) -> None:
    with pytest.raises(ModelError):
        quantizable(model)
    with pytest.raises(ModelError):
        onnx_in(model, Scheme.W8D)
