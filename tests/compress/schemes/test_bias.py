import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tiny_models import MODELS, answers, dense_rows, embedding_rows, onnx_in

from pipeline.compress.schemes.bias import believable_shift
from pipeline.compress.schemes.storing import correct_biases, prepare, store
from pipeline.core.names import Format, Scheme

ROWS = {"tiny_dense": dense_rows(2000, seed=3)[0], "tiny_embedding": embedding_rows(2000, seed=3)}


FORMS = [(Format.TFLITE, scheme) for scheme in (Scheme.W4, Scheme.W4D, Scheme.W8D)]
FORMS += [(Format.ONNX, scheme) for scheme in (Scheme.W4, Scheme.W8, Scheme.W8D)]


@pytest.mark.parametrize(("form", "scheme"), FORMS)
@pytest.mark.parametrize("name", list(ROWS))
def test_corrected_file_has_the_same_size_and_answers_no_worse(name: str, form: Format, scheme: Scheme) -> None:
    prepared = prepare(form, (MODELS / f"{name}.{form}").read_bytes())
    stored = store(form, prepared, scheme, None)
    calibration = {key: values[:1000] for key, values in ROWS[name].items()}
    others = {key: values[1000:] for key, values in ROWS[name].items()}
    corrected = correct_biases(form, prepared, stored, [calibration])
    wanted = answers(form, prepared, others)
    before, after = (float(np.square(answers(form, model, others) - wanted).mean()) for model in (stored, corrected))
    assert len(corrected) == len(stored)
    assert after <= before * 1.05
    if scheme is not Scheme.W8D and name == "tiny_embedding":
        assert after < before


@pytest.mark.parametrize("form", list(Format))
def test_without_rows_a_file_is_left_as_it_is(form: Format) -> None:
    prepared = prepare(form, (MODELS / f"tiny_dense.{form}").read_bytes())
    assert correct_biases(form, prepared, prepared, []) == prepared


def test_an_onnx_file_with_integer_biases_is_left_as_it_is() -> None:
    rows = ROWS["tiny_dense"]
    stored = onnx_in((MODELS / "tiny_dense.onnx").read_bytes(), Scheme.W8A8, [rows])
    assert (
        correct_biases(Format.ONNX, prepare(Format.ONNX, (MODELS / "tiny_dense.onnx").read_bytes()), stored, [rows])
        == stored
    )


def test_the_biases_of_convolutions_and_of_wide_onnx_models_take_up_a_shift() -> None:
    """A bias that was moved on purpose is moved back, along the right axis."""
    rng = np.random.default_rng(2)
    parts = {"k": rng.normal(size=(5, 2, 3, 3)), "b": rng.normal(size=5), "w": rng.normal(size=(5, 4)), "c": np.ones(4)}
    parts["one"] = np.ones(1)  # for all channels: no bias of one layer
    constants = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in parts.items()]
    nodes = [
        helper.make_node("Conv", ["x", "k", "b"], ["seen"]),
        helper.make_node("Transpose", ["seen"], ["turned"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["turned", "w"], ["read"]),
        helper.make_node("Add", ["read", "c"], ["added"]),
        helper.make_node("Add", ["added", "one"], ["y"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, 1, ["n", *shape]) for name, shape in (("x", [2, 8, 8]), ("y", [6, 6, 4]))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    true = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    bent = onnx.load_from_string(true.SerializeToString())
    for name in ("b", "c"):
        constant = next(item for item in bent.graph.initializer if item.name == name)
        constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) + np.float32(0.5), name))
    rows = {"x": rng.normal(size=(64, 2, 8, 8)).astype(np.float32)}
    mended = onnx.load_from_string(
        correct_biases(Format.ONNX, true.SerializeToString(), bent.SerializeToString(), [rows])
    )
    for constant in mended.graph.initializer:
        np.testing.assert_allclose(numpy_helper.to_array(constant), parts[constant.name], rtol=1e-4, atol=1e-4)


def test_shift_is_believed_as_far_as_the_rows_agree() -> None:
    rng = np.random.default_rng(0)
    errors = np.stack([np.full(400, 0.5), np.tile([1.0, -1.0], 200)], 1)
    np.testing.assert_allclose(believable_shift(errors), [0.5, 0.0])
    noisy = (0.1 + rng.normal(0, 1, (400, 1))).astype(np.float64)
    assert abs(believable_shift(noisy)[0]) < abs(noisy.mean())
