import pytest
from tiny_models import MODELS, embedding_rows

from pipeline.compress.schemes.operator_coverage import coverage_of_operators
from pipeline.compress.schemes.storing import calibrate, prepare, store, weight_groups
from pipeline.core.names import Format, Scheme

ROWS = embedding_rows(100, seed=1)
STORED_AS = {
    (Format.TFLITE, Scheme.F32): {"float32"},
    (Format.TFLITE, Scheme.F16): {"float16"},
    (Format.TFLITE, Scheme.W8): {"int8"},
    (Format.TFLITE, Scheme.W8A8): {"int8"},
    (Format.TFLITE, Scheme.W4): {"int4"},
    (Format.ONNX, Scheme.F16): {"float16"},
    (Format.ONNX, Scheme.W8): {"int8"},
    (Format.ONNX, Scheme.W8A8): {"int8"},
    (Format.ONNX, Scheme.W4): {"int4", "int4 in blocks"},
}


@pytest.mark.parametrize(("model_format", "scheme"), list(STORED_AS))
def test_every_operator_is_listed_as_it_is_stored(model_format: Format, scheme: Scheme) -> None:
    prepared = prepare(model_format, (MODELS / f"tiny_embedding.{model_format}").read_bytes())
    groups = weight_groups(model_format, prepared)
    assignment = {group.name: scheme for group in groups}
    stored = store(model_format, prepared, assignment, calibrate(model_format, prepared, [ROWS]))
    found = coverage_of_operators(model_format, stored, [group.name for group in groups])
    assert {item.stored_as for item in found} == STORED_AS[model_format, scheme]
    assert [item.name for item in found] == [group.name for group in groups]
    bits = {"float32": 32, "float16": 16, "int8": 8, "int4": 4, "int4 in blocks": 4}
    assert [item.bytes for item in found] == [
        group.weight_count * bits[item.stored_as] // 8 for group, item in zip(groups, found, strict=True)
    ]
