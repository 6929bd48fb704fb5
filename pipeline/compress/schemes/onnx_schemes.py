"""Number formats of ``.onnx`` files, by onnxruntime's quantizer; inputs and outputs keep their names and types."""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode
from onnxruntime.quantization.registry import IntegerOpsRegistry, QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from pipeline.compress.schemes.calibration import Ranges
from pipeline.compress.schemes.groups import Assignment, WeightGroup
from pipeline.compress.schemes.onnx_calibration import onnx_ranges
from pipeline.compress.schemes.onnx_graph import (
    NodeGroup,
    flatten_biases,
    followers,
    free_added_names,
    name_nodes,
    node_groups,
    sort_nodes,
    without_constant_inputs,
)
from pipeline.compress.schemes.onnx_opset import has_inner_graphs, has_int4, with_int4
from pipeline.compress.schemes.onnx_weights import BLOCK, store_weights, table_block
from pipeline.core.errors import ModelError, SchemeRefused
from pipeline.core.names import Format, Scheme
from pipeline.engines.open import open_session

__all__ = ["onnx_groups", "onnx_ranges", "prepared_onnx", "store_onnx"]
_DYNAMIC_TYPES = tuple(sorted(IntegerOpsRegistry))
_STATIC_TYPES = tuple(sorted({*QLinearOpsRegistry, *QDQRegistry}))
_DYNAMIC_KINDS = ("Conv", "Gemm", "MatMul", "LSTM")
_BLOCK_KINDS = ("Gemm", "MatMul")
_NEAREST = {
    Scheme.W4B32: (Scheme.W4, Scheme.W8),
    Scheme.W4: (Scheme.W8,),
    Scheme.W8A8: (Scheme.W8,),
    Scheme.W8D: (Scheme.W8,),
}
_STATIC_KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def prepared_onnx(export: bytes) -> bytes:
    """Return a model with shapes inferred and what belongs together fused (MatMul + Add to Gemm), nodes named.

    Raises ModelError for bytes that are not an onnx model.
    """
    open_session(Format.ONNX, export)
    with TemporaryDirectory() as folder:
        source, ready = Path(folder, "float.onnx"), Path(folder, "ready.onnx")
        source.write_bytes(export)
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        model = onnx.load(ready)
    without_constant_inputs(model)
    free_added_names(model)
    flatten_biases(model)
    name_nodes(model)
    return bytes(model.SerializeToString())


def onnx_groups(prepared: bytes) -> tuple[WeightGroup, ...]:
    """List what can be decided in a prepared model."""
    model = with_int4(onnx.load_from_string(prepared))
    return tuple(
        WeightGroup(group.name, group.kind, group.count, 4 * group.count, _choices(model, group))
        for group in node_groups(model)
    )


def store_onnx(prepared: bytes, scheme: Scheme | Assignment, ranges: Ranges | None) -> bytes:
    """Store a prepared model; raises SchemeRefused for a scheme that onnx does not have or that fails."""
    model = onnx.load_from_string(prepared)
    groups = node_groups(model)
    try:
        stored = (
            _uniform(model, scheme, ranges) if isinstance(scheme, Scheme) else _mixed(model, groups, scheme, ranges)
        )
        sort_nodes(stored)
        data = bytes(stored.SerializeToString())
        open_session(Format.ONNX, data)
    except (ValueError, RuntimeError, KeyError, NotImplementedError, TypeError, AssertionError, ModelError) as error:
        brief = " ".join(str(error).split()) or type(error).__name__
        title = str(scheme) if isinstance(scheme, Scheme) else "This mix of schemes"
        raise SchemeRefused(f"{title} cannot be applied to this onnx model: {brief[:200]}.") from error
    return data


_WEIGHT_ONLY = (Scheme.F16, Scheme.W8, Scheme.W4, Scheme.W4B32)


def _choices(model: onnx.ModelProto, group: NodeGroup) -> tuple[Scheme, ...]:
    """Return what changes the file: float16 anywhere, integers where a node is there for them."""
    choices = [Scheme.F32, Scheme.F16, Scheme.W8]
    if group.kind in _DYNAMIC_KINDS and _is_dynamic(model, group):
        choices.append(Scheme.W8D)
    if group.kind in _STATIC_KINDS and not has_inner_graphs(model):
        choices.append(Scheme.W8A8)
    if has_int4(model) and (group.kind != "Gather" or table_block(group.row)):
        choices.append(Scheme.W4)
        if group.kind in _BLOCK_KINDS and group.row % BLOCK == 0:
            choices.append(Scheme.W4B32)
    return tuple(choices)


def _is_dynamic(model: onnx.ModelProto, group: NodeGroup) -> bool:
    return not (group.kind in ("Gemm", "MatMul") and has_inner_graphs(model))


def _uniform(model: onnx.ModelProto, scheme: Scheme, ranges: Ranges | None) -> onnx.ModelProto:
    groups = node_groups(model)
    if scheme is Scheme.F16:
        return convert_float_to_float16(model, keep_io_types=True)
    if scheme in (Scheme.W8A16, Scheme.W4D):
        raise SchemeRefused(f"{scheme} is made for tflite alone; ask for w8, w8d, w8a8, w4 or w4b32 in schemes.onnx.")
    able = with_int4(model) if scheme in (Scheme.W4, Scheme.W4B32) else model
    if not any(scheme in _choices(able, group) for group in groups):
        raise SchemeRefused(f"{scheme} does not exist for any layer of this onnx model; ask for w8 in schemes.onnx.")
    return _mixed(model, groups, dict.fromkeys((group.name for group in groups), scheme), ranges)


def _mixed(
    model: onnx.ModelProto, groups: Collection[NodeGroup], assignment: Assignment, ranges: Ranges | None
) -> onnx.ModelProto:
    known = {group.name: group for group in groups}
    unknown = sorted(assignment.keys() - known.keys())
    if unknown:
        raise SchemeRefused(f"There is no weight group {unknown[0]!r} in this model; make the assignment again.")
    if {Scheme.W4, Scheme.W4B32} & set(assignment.values()):
        model = with_int4(model)
    nodes: dict[Scheme, list[str]] = defaultdict(list)
    for name, scheme in assignment.items():
        nodes[_possible(model, known[name], scheme)] += known[name].nodes
    for scheme in _WEIGHT_ONLY:
        store_weights(model, nodes[scheme], scheme)
    if nodes[Scheme.W8D]:
        # The quantizer first makes a MatMul, with a name of its own, and an Add of each Gemm.
        model = _dynamic(model, [name for node in nodes[Scheme.W8D] for name in (node, f"{node}_MatMul")])
    if nodes[Scheme.W8A8]:
        model = _static(model, [*nodes[Scheme.W8A8], *followers(model, nodes[Scheme.W8A8])], ranges or {})
    return model


def _possible(model: onnx.ModelProto, group: NodeGroup, scheme: Scheme) -> Scheme:
    """Return the scheme, or the nearest one that there is for a group's nodes."""
    choices = _choices(model, group)
    if scheme in (Scheme.W8D, Scheme.W8A8) and group.kind == "Gather":
        return Scheme.W8
    for candidate in (scheme, *_NEAREST.get(scheme, ())):
        if candidate in choices:
            return candidate
    raise SchemeRefused(f"{scheme} does not exist for {group.kind} nodes of onnx models such as {group.name!r}.")


def _dynamic(model: onnx.ModelProto, nodes: list[str]) -> onnx.ModelProto:
    # Unsigned weights: the signed-by-unsigned kernels of processors without VNNI saturate and answer differently.
    # Symmetric: zeros of a pruned model stay one value, so they still compress.
    quantizer = ONNXQuantizer(
        model,
        True,  # a scale a channel
        False,  # no reduced range
        QuantizationMode.IntegerOps,
        False,  # dynamic
        QuantType.QUInt8,
        QuantType.QUInt8,
        None,
        nodes,
        [],
        list(_DYNAMIC_TYPES),
        {"WeightSymmetric": True, "MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def _static(model: onnx.ModelProto, nodes: list[str], ranges: Ranges) -> onnx.ModelProto:
    limits = {name: (np.float32(found.low), np.float32(found.high)) for name, found in ranges.items()}
    quantizer = QDQQuantizer(
        model,
        True,  # a scale a channel
        False,  # no reduced range
        QuantType.QInt8,
        QuantType.QInt8,
        TensorsData(CalibrationMethod.MinMax, limits),
        nodes,
        [],
        list(_STATIC_TYPES),
        {},
    )
    quantizer.quantize_model()
    return quantizer.model.model
