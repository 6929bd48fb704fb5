import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import MODELS, answers, dense_rows, embedding_rows

from pipeline.compress.schemes.groups import WeightGroup
from pipeline.compress.schemes.storing import calibrate, prepare, store, weight_groups
from pipeline.core.errors import SchemeRefused
from pipeline.core.names import Format, Scheme
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

ROWS = {"tiny_dense": dense_rows(300, seed=5)[0], "tiny_embedding": embedding_rows(300, seed=5)}
CASES = [(name, model_format) for name in ROWS for model_format in Format]
PREPARED = {
    (name, model_format): prepare(model_format, (MODELS / f"{name}.{model_format}").read_bytes())
    for name, model_format in CASES
}
RANGES = {
    (name, model_format): calibrate(model_format, PREPARED[name, model_format], [ROWS[name]])
    for name, model_format in CASES
}
GROUPS = {
    (name, model_format): weight_groups(model_format, PREPARED[name, model_format]) for name, model_format in CASES
}


def parent_answers(name: str, model_format: Format) -> Array:
    return answers(model_format, (MODELS / f"{name}.{model_format}").read_bytes(), ROWS[name])


@pytest.mark.parametrize(("name", "model_format"), CASES)
def test_prepared_model_answers_as_its_export(name: str, model_format: Format) -> None:
    found = answers(model_format, PREPARED[name, model_format], ROWS[name])
    np.testing.assert_allclose(found, parent_answers(name, model_format), atol=1e-6)


@pytest.mark.parametrize(("name", "model_format"), CASES)
def test_every_matrix_and_table_is_a_group_of_its_own(name: str, model_format: Format) -> None:
    groups = GROUPS[name, model_format]
    shapes = sorted(group.weight_count for group in groups)
    assert shapes == ([16, 256, 512] if name == "tiny_dense" else [32, 512, 800, 1280]), groups
    assert len({group.name for group in groups}) == len(groups)
    assert all(group.choices[0] is Scheme.F32 and len(group.choices) > 1 for group in groups)
    assert all(group.weight_bytes == 4 * group.weight_count for group in groups)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_assignment_keeps_the_tensors_and_nearly_the_answers(data: st.DataObject) -> None:
    name, model_format = data.draw(st.sampled_from(CASES))
    groups: tuple[WeightGroup, ...] = GROUPS[name, model_format]
    assignment = {group.name: data.draw(st.sampled_from(group.choices)) for group in groups}
    prepared, ranges = PREPARED[name, model_format], RANGES[name, model_format]
    stored = store(model_format, prepared, assignment, ranges)
    assert stored == store(model_format, prepared, assignment, ranges)
    before, after = open_session(model_format, prepared), open_session(model_format, stored)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    moved = np.abs(answers(model_format, stored, ROWS[name]) - parent_answers(name, model_format))
    assert moved.mean() < 0.05, assignment


@pytest.mark.parametrize(("name", "model_format"), CASES)
def test_assignment_of_nothing_answers_bit_for_bit_in_no_more_bytes(name: str, model_format: Format) -> None:
    prepared = PREPARED[name, model_format]
    stored = store(model_format, prepared, {}, None)
    assert len(stored) <= len(prepared)
    np.testing.assert_array_equal(
        answers(model_format, stored, ROWS[name]), answers(model_format, prepared, ROWS[name])
    )


@pytest.mark.parametrize("model_format", Format)
def test_static_scheme_without_ranges_is_refused(model_format: Format) -> None:
    with pytest.raises(SchemeRefused, match="ranges"):
        store(model_format, PREPARED["tiny_dense", model_format], Scheme.W8A8, None)


@pytest.mark.parametrize("model_format", Format)
def test_assignment_of_another_model_is_refused(model_format: Format) -> None:
    with pytest.raises(SchemeRefused, match="no weight group 'nowhere'"):
        store(model_format, PREPARED["tiny_dense", model_format], {"nowhere": Scheme.W8D}, None)


def test_a_bias_of_one_row_is_quantized_as_one_of_no_rows():
    weights, bias = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4), np.ones((1, 4), np.float32)
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="gemm")],
        "one row",
        [value("x", onnx.TensorProto.FLOAT, ["n", 8])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 4])],
        [onnx.numpy_helper.from_array(weights, "w"), onnx.numpy_helper.from_array(bias, "b")],
    )
    export = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    rows = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    prepared = prepare(Format.ONNX, export.SerializeToString())
    stored = store(Format.ONNX, prepared, Scheme.W8A8, calibrate(Format.ONNX, prepared, [{"x": rows}]))
    found = open_session(Format.ONNX, stored).run({"x": rows})["y"]
    np.testing.assert_allclose(found, rows @ weights + bias, atol=0.1)
