"""Legal ``.onnx`` graphs whose constants have several readers, or that list them among their inputs."""

from collections.abc import Sequence

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from pipeline.compress.schemes.storing import calibrate, prepare, store, weight_groups
from pipeline.core.names import Format, Scheme
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

RNG = np.random.default_rng(0)
SIZE = 64
TABLE = (RNG.normal(size=(SIZE, SIZE)) * np.linspace(0.1, 3, SIZE)[:, None]).astype(np.float32)
IDS = RNG.integers(0, SIZE, (SIZE, 5))
X = RNG.normal(size=(SIZE, SIZE)).astype(np.float32)
GEMM = helper.make_node("Gemm", ["x", "w"], ["out"], name="dense", transB=1)
GATHER = helper.make_node("Gather", ["w", "ids"], ["rows"], name="table")
POOL = [helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0)]
SUM = [helper.make_node("Add", ["out", "mean"], ["y"])]


def made(
    nodes: Sequence[NodeProto],
    rows: dict[str, Array],
    ir: int = 8,
    listed: bool = False,
    more: Sequence[TensorProto] = (),
) -> bytes:
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in rows.items()}
    inputs = [helper.make_tensor_value_info(name, types[name], ["n", *array.shape[1:]]) for name, array in rows.items()]
    inputs += [helper.make_tensor_value_info("w", TensorProto.FLOAT, TABLE.shape)] if listed else []
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", SIZE])]
    graph = helper.make_graph(list(nodes), "g", inputs, outputs, [numpy_helper.from_array(TABLE, "w"), *more])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=ir)
    return bytes(model.SerializeToString())


def error(model: bytes, rows: dict[str, Array], scheme: Scheme) -> float:
    """Return the largest error of the stored model's answers, against the largest answer."""
    prepared = prepare(Format.ONNX, model)
    (group,) = weight_groups(Format.ONNX, prepared)
    stored = store(Format.ONNX, prepared, {group.name: scheme}, calibrate(Format.ONNX, prepared, [rows]))
    wanted, found = (open_session(Format.ONNX, data).run(rows)["y"] for data in (model, stored))
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("first", [GATHER, GEMM])
@pytest.mark.parametrize(
    ("scheme", "most"),
    [(Scheme.F16, 0.001), (Scheme.W8, 0.02), (Scheme.W8D, 0.02), (Scheme.W8A8, 0.02), (Scheme.W4, 0.3)],
)
def test_a_table_that_is_a_matrix_too_is_stored_once_for_both(first: NodeProto, scheme: str, most: float) -> None:
    other = GEMM if first is GATHER else GATHER
    rows = {"x": X, "ids": IDS}
    assert error(made([first, other, *POOL, *SUM], rows), rows, Scheme(scheme)) < most


@pytest.mark.parametrize("scheme", [Scheme.W8, Scheme.W4, Scheme.W4B32])
def test_columns_that_are_looked_up_are_not_taken_for_rows(scheme: Scheme) -> None:
    nodes = [
        helper.make_node("Gather", ["w", "ids"], ["columns"], name="table", axis=1),
        helper.make_node("MatMul", ["x", "columns"], ["y"]),
    ]
    rows = {"x": X, "ids": IDS[:, 0]}
    assert error(made(nodes, rows), rows, scheme) < 0.02


@pytest.mark.parametrize("scheme", [Scheme.W8, Scheme.W4, Scheme.W8D])
def test_constants_of_old_files_that_are_inputs_too_are_constants(scheme: Scheme) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], name="dense", transB=1)]
    assert error(made(nodes, {"x": X}, ir=3, listed=True), {"x": X}, scheme) < 0.3


@pytest.mark.parametrize("scheme", ["f16", "w8", "w8d", "w8a8", "w4", "w4b32"])
@pytest.mark.parametrize("name", ["w_scale", "w_zero_point", "w_quantized", "w_float", "w_half", "x_scale"])
def test_a_constant_called_as_a_quantizer_calls_its_own_is_not_taken_for_that(name: str, scheme: str) -> None:
    nodes = [helper.make_node("Mul", ["x", name], ["scaled"]), helper.make_node("Gemm", ["scaled", "w"], ["y"])]
    own = numpy_helper.from_array(np.linspace(1, 2, SIZE, dtype=np.float32), name)
    assert error(made(nodes, {"x": X}, more=[own]), {"x": X}, Scheme(scheme)) < 0.3


@pytest.mark.parametrize("name", ["w_float", "w_half", "w_quantized"])
def test_a_result_called_as_a_quantizer_calls_its_own_is_told_apart(name: str) -> None:
    nodes = [helper.make_node("Gemm", ["x", "w"], [name]), helper.make_node("Relu", [name], ["y"])]
    assert all(error(made(nodes, {"x": X}), {"x": X}, scheme) < 0.02 for scheme in (Scheme.F16, Scheme.W8))


def test_a_weight_that_a_branch_reads_too_stays_for_the_branch() -> None:
    out = helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["n", SIZE])
    branches = [
        helper.make_graph([helper.make_node("MatMul", [read, "w"], ["inner"])], "branch", [], [out])
        for read in ("x", "out")
    ]
    nodes = [
        GEMM,
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["sum"], ["asked"], to=TensorProto.BOOL),
        helper.make_node("If", ["asked"], ["chosen"], then_branch=branches[0], else_branch=branches[1]),
        helper.make_node("Add", ["chosen", "out"], ["y"]),
    ]
    assert error(made(nodes, {"x": X}), {"x": X}, Scheme.W8) < 0.02
