"""Weights of ``.onnx`` nodes stored as int8, int4 or float16, and computed with in float.

A matrix goes through DequantizeLinear, which is in the standard, and so does a table that is a matrix elsewhere in the
graph. Any other table is looked up first, and only the rows that are looked up become floats: by Cast and Mul rather
than by DequantizeLinear, because onnxruntime 1.31 moves DequantizeLinear along the graph and ends the process when it
meets a loop that reads what it moved.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.compress.schemes.onnx_graph import WEIGHT_INPUTS, attribute, reads
from pipeline.core.names import Scheme
from pipeline.core.tensors import Array

BLOCK = 32
INT4_OPSET = 21
_SUFFIXES = ("_quantized", "_scale", "_zero_point")


@dataclass(frozen=True)
class Rounded:
    """Integers and their scales: weights = integers × scales, broadcast along ``axis``, or in blocks along it."""

    integers: Array
    scales: Array
    axis: int
    block: int = 0


def store_weights(model: onnx.ModelProto, nodes: Iterable[str], scheme: Scheme) -> None:
    """Store the constant weights of ``nodes``, in place, in ``f16``, ``w8``, ``w4`` or ``w4b32``.

    Nodes that share a weight must be given together.
    """
    wanted = set(nodes)
    matrices = {
        node.input[place]
        for node in model.graph.node
        for place in WEIGHT_INPUTS.get(node.op_type, ())
        if node.op_type != "Gather" and place < len(node.input)
    }
    floats = {item.name: item for item in model.graph.initializer if item.data_type == TensorProto.FLOAT}
    replaced: set[str] = set()
    made: list[onnx.NodeProto] = []
    for node in list(model.graph.node):
        for place in WEIGHT_INPUTS.get(node.op_type, ()) if node.name in wanted else ():
            name = node.input[place] if place < len(node.input) else ""
            if name in floats and len(floats[name].dims) > 1:
                is_table = node.op_type == "Gather" and name not in matrices
                made += _stored(model, node, place, floats[name], scheme, name in replaced, is_table)
                replaced.add(name)
    _drop_unread(model, replaced)
    for node in reversed(made):
        model.graph.node.insert(0, node)


def _stored(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    place: int,
    weights: TensorProto,
    scheme: Scheme,
    again: bool,
    is_table: bool,
) -> list[onnx.NodeProto]:
    values = numpy_helper.to_array(weights)
    name = node.input[place]
    if scheme is Scheme.F16:
        return _as_half(model, node, place, values, again)
    bits = 8 if scheme is Scheme.W8 else 4
    if is_table:
        return _as_table(model, node, values, bits, again)
    block = BLOCK if scheme is Scheme.W4B32 else 0
    axis, along = channel_axis(node, place, values.ndim), block_axis(node, place, values.ndim)
    rounded = rounded_to(values, bits, axis, block, along)
    if not again:
        _add(model, name, rounded, bits)
    result = f"{name}_float"
    node.input[place] = result
    if again:
        return []
    options = {"axis": rounded.axis, **({"block_size": rounded.block} if rounded.block else {})}
    parts = [f"{name}{suffix}" for suffix in _SUFFIXES[:2]]
    return [helper.make_node("DequantizeLinear", parts, [result], name=f"{name}_dequantize", **options)]


def channel_axis(node: onnx.NodeProto, place: int, rank: int) -> int:
    """Return the axis of a node's weights along which its output channels lie."""
    if node.op_type == "Gemm":
        is_transposed = attribute(node, "transB", 0) if place == 1 else not attribute(node, "transA", 0)
        return 0 if is_transposed else 1
    if node.op_type in ("MatMul", "FusedMatMul"):
        return rank - 1 if place == 1 else rank - 2
    return 1 if node.op_type in ("ConvTranspose", "LSTM", "GRU", "RNN") else 0


def block_axis(node: onnx.NodeProto, place: int, rank: int) -> int | None:
    """Return the axis that a matrix product sums over, or None where weights are not a matrix."""
    if node.op_type not in ("Gemm", "MatMul") or rank != 2:
        return None
    return 1 - channel_axis(node, place, rank)


def rounded_to(values: Array, bits: int, axis: int, block: int = 0, along: int | None = None) -> Rounded:
    """Round symmetrically, with a scale a channel (``axis``), or one a block of ``block`` numbers along ``along``."""
    top = 2 ** (bits - 1) - 1
    if block and along is not None and values.shape[along] % block == 0:
        moved = np.moveaxis(values, along, -1)
        grouped = moved.reshape(*moved.shape[:-1], -1, block)
        scales = _scales(np.abs(grouped).max(-1), top)
        integers = np.clip(np.rint(np.divide(grouped, scales[..., None])), -top, top).reshape(moved.shape)
        return Rounded(np.moveaxis(integers, -1, along), np.moveaxis(scales, -1, along), along, block)
    others = tuple(at for at in range(values.ndim) if at != axis)
    scales = _scales(np.abs(values).max(others), top)
    shape = [-1 if at == axis else 1 for at in range(values.ndim)]
    return Rounded(np.clip(np.rint(np.divide(values, scales.reshape(shape))), -top, top), scales, axis)


def _scales(peaks: Array, top: int) -> Array:
    return np.where(np.greater(peaks, 0), np.divide(peaks, top), 1).astype(np.float32)


def _as_half(
    model: onnx.ModelProto, node: onnx.NodeProto, place: int, values: Array, again: bool
) -> list[onnx.NodeProto]:
    name = node.input[place]
    half, result = f"{name}_half", f"{name}_float"
    node.input[place] = result
    if again:
        return []
    limit = float(np.finfo(np.float16).max)
    model.graph.initializer.append(numpy_helper.from_array(np.clip(values, -limit, limit).astype(np.float16), half))
    return [helper.make_node("Cast", [half], [result], name=f"{name}_cast", to=TensorProto.FLOAT)]


def _as_table(
    model: onnx.ModelProto, node: onnx.NodeProto, values: Array, bits: int, again: bool
) -> list[onnx.NodeProto]:
    """Look integers up: int8, a scale a table; int4 by onnxruntime's own operator, a scale for 32 or 16 of a row."""
    name, result = node.input[0], node.output[0]
    if bits == 4:
        block = table_block(values.shape[-1])
        rounded = rounded_to(values, 4, 0, block, values.ndim - 1)
        if not again:
            _add(model, name, rounded, 4)
        ids = node.input[1]
        del node.input[:], node.attribute[:]
        node.op_type, node.domain = "GatherBlockQuantized", "com.microsoft"
        node.input.extend([f"{name}_quantized", ids, f"{name}_scale"])
        options = {"gather_axis": 0, "quantize_axis": values.ndim - 1, "block_size": block}
        node.attribute.extend(helper.make_attribute(key, value) for key, value in options.items())
        return []
    if not again:
        flat = rounded_to(values.reshape(1, -1), 8, 0)
        _add(model, name, Rounded(flat.integers.reshape(values.shape), flat.scales.reshape(()), 0), 8)
    node.input[0], node.output[0] = f"{name}_quantized", f"{result}_rows"
    at = next(position for position, other in enumerate(model.graph.node) if other.name == node.name)
    cast = helper.make_node(
        "Cast", [f"{result}_rows"], [f"{result}_cast"], name=f"{node.name}_cast", to=TensorProto.FLOAT
    )
    scale = helper.make_node("Mul", [f"{result}_cast", f"{name}_scale"], [result], name=f"{node.name}_scale")
    model.graph.node.insert(at + 1, cast)
    model.graph.node.insert(at + 2, scale)
    return []


def table_block(row: int) -> int:
    """Return how many numbers of a table's row share a scale at 4 bits; 0 where no block divides the row."""
    return next((block for block in (BLOCK, BLOCK // 2) if row % block == 0), 0)


def _add(model: onnx.ModelProto, name: str, rounded: Rounded, bits: int) -> None:
    stored = rounded.integers.astype(np.int8)
    if bits == 4:
        packed = _packed(stored)
        tensor = helper.make_tensor(f"{name}_quantized", TensorProto.INT4, stored.shape, packed, raw=True)
    else:
        tensor = numpy_helper.from_array(stored, f"{name}_quantized")
    model.graph.initializer.append(tensor)
    model.graph.initializer.append(numpy_helper.from_array(rounded.scales.astype(np.float32), f"{name}_scale"))


def _packed(values: Array) -> bytes:
    flat = values.reshape(-1).astype(np.int8)
    padded = np.concatenate([flat, np.zeros(flat.size % 2, np.int8)])
    return bytes(np.bitwise_or(padded[0::2] & 15, (padded[1::2] & 15) << 4).astype(np.uint8).tobytes())


def _drop_unread(model: onnx.ModelProto, names: Iterable[str]) -> None:
    read = {name for node in model.graph.node for name in reads(node)}
    unread = set(names) - read - {item.name for item in model.graph.output}
    kept = [item for item in model.graph.initializer if item.name not in unread]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
