"""Models exported for one row, or k, answer any number of rows in both engines."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.engines.base import fixed_rows, run_in_steps
from pipeline.engines.open import open_session


def product(rows: int | str, answer_rows: int | str | None = None) -> bytes:
    """Return an onnx model x (rows, 4) int64 + z (rows, 4) -> y (rows, 4)."""
    ends = [
        helper.make_tensor_value_info("x", TensorProto.INT64, [rows, 4]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [rows, 4]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None if answer_rows else [rows, 4]),
    ]
    nodes = [helper.make_node("Cast", ["x"], ["f"], to=1), helper.make_node("Mul", ["f", "z"], ["p"])]
    last = ["p", "axes"] if answer_rows else ["p", "zero"]
    nodes.append(
        helper.make_node("ReduceSum" if answer_rows else "Add", last, ["y"], **({"keepdims": 0} if answer_rows else {}))
    )
    constants = [
        numpy_helper.from_array(np.array([0], np.int64), "axes"),
        numpy_helper.from_array(np.float32(0), "zero"),
    ]
    graph = helper.make_graph(nodes, "g", ends[:2], ends[2:], constants)
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def rows_of(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"x": rng.integers(0, 9, (count, 4)), "z": rng.normal(size=(count, 4)).astype(np.float32)}


@pytest.mark.parametrize("batch", [1, 4, "n"])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_an_onnx_model_of_any_batch_answers_any_number_of_rows(batch: int | str, rows: int) -> None:
    session = open_session(Format.ONNX, product(batch))
    assert [spec.shape for spec in (*session.inputs, *session.outputs)] == [(-1, 4)] * 3
    inputs = rows_of(rows)
    np.testing.assert_array_equal(session.run(inputs)["y"], inputs["x"].astype(np.float32) * inputs["z"])


def test_an_output_without_a_rows_axis_is_a_model_error() -> None:
    session = open_session(Format.ONNX, product("n", answer_rows=1))
    with pytest.raises(ModelError, match="one entry a row"):
        session.run(rows_of(3))


def test_inputs_of_different_batches_are_a_model_error() -> None:
    assert fixed_rows({"a": -1, "b": 3}) == 3
    with pytest.raises(ModelError, match="a 2, b 3"):
        fixed_rows({"a": 2, "b": 3})


def test_the_last_step_is_padded_and_cut() -> None:
    seen: list[int] = []

    def call(inputs: object) -> dict[str, np.ndarray]:
        seen.append(len(inputs["x"]))
        return {"y": inputs["x"] * 2}

    np.testing.assert_array_equal(run_in_steps(call, {"x": np.arange(7)}, 7, 3)["y"], np.arange(7) * 2)
    assert seen == [3, 3, 3]
