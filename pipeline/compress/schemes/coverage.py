"""What a candidate's file really stores: weights, bits, zeros, and the share of the float weights that got smaller.

Quantizers skip what they cannot do without a word, so nothing is taken from them: every figure is counted in the file.
A weight is an element of a constant tensor with more than one element that the model computes with: float or
quantized numbers, not shapes, scales or zero points. Vectors (biases, norms) count as weights, but not in the share:
they stay float on purpose.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema

from pipeline.compress.schemes.onnx_graph import elements
from pipeline.compress.schemes.tflite_file import constant_of, parse_tflite
from pipeline.core.errors import SchemeRefused
from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

QUANTIZED_RATIO_MIN = 0.5


@dataclass(frozen=True)
class Stored:
    """One constant tensor of weights: how many, bits of each, how many are zero, and whether it is still float32."""

    count: int
    bits: int
    zeros: int
    is_full_float: bool
    is_vector: bool = False


@dataclass(frozen=True)
class Coverage:
    """The figures of one file; ``quantized_ratio`` is against its float parent."""

    weight_count: int
    weight_bits_mean: float
    quantized_ratio: float
    sparsity_ratio: float


def stored_weights(model_format: Format, model: bytes) -> tuple[Stored, ...]:
    """List the weights of a model file; raises ModelError for bytes that are not one."""
    return tuple(_onnx_weights(model) if model_format is Format.ONNX else _tflite_weights(model))


def coverage(parent: Sequence[Stored], candidate: Sequence[Stored]) -> Coverage:
    """Compare a candidate's weights with its float parent's."""
    count = sum(item.count for item in candidate)
    bits = sum(item.count * item.bits for item in candidate)
    return Coverage(
        weight_count=count,
        weight_bits_mean=bits / count if count else 0.0,
        quantized_ratio=_quantized_ratio(_float_bytes(parent), _float_bytes(candidate)),
        sparsity_ratio=sparsity(candidate),
    )


def sparsity(weights: Sequence[Stored]) -> float:
    """Return the share of weights that are exactly zero (0..1)."""
    count = sum(item.count for item in weights)
    return sum(item.zeros for item in weights) / count if count else 0.0


def require_coverage(name: str, found: Coverage) -> None:
    """Raise SchemeRefused when a scheme missed most of the weights; ``name`` is the candidate's."""
    if found.quantized_ratio < QUANTIZED_RATIO_MIN:
        raise SchemeRefused(
            f"{name} stores only {found.quantized_ratio:.0%} of the float weight bytes in a smaller format "
            f"(at least {QUANTIZED_RATIO_MIN:.0%} is asked): the quantizer has no kernel for this model's other layers."
        )


def _float_bytes(weights: Sequence[Stored]) -> int:
    return sum(item.count * item.bits // 8 for item in weights if item.is_full_float and not item.is_vector)


def _quantized_ratio(parent_bytes: int, candidate_bytes: int) -> float:
    return max(0.0, 1 - candidate_bytes / parent_bytes) if parent_bytes else 0.0


_TFLITE_TYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT8: np.dtype("i1"),
    schema.TensorType.UINT8: np.dtype("u1"),
    schema.TensorType.INT16: np.dtype("<i2"),
    schema.TensorType.INT32: np.dtype("<i4"),
    schema.TensorType.INT64: np.dtype("<i8"),
}
_TFLITE_PACKED_BITS = {schema.TensorType.INT4: 4, schema.TensorType.INT2: 2}
_PLAIN_INTEGERS = (schema.TensorType.INT16, schema.TensorType.INT32, schema.TensorType.INT64)  # unless they have scales


def _tflite_weights(model: bytes) -> Iterator[Stored]:
    parsed = parse_tflite(model)
    known = _TFLITE_TYPES.keys() | _TFLITE_PACKED_BITS.keys()
    by_buffer: dict[int, Any] = {}
    for graph in parsed.subgraphs:
        scales = set(_block_scales(graph))
        by_buffer.update({t.buffer: t for at, t in enumerate(graph.tensors) if t.type in known and at not in scales})
    for buffer in sorted(by_buffer):  # tensors that share a buffer store it once
        tensor = by_buffer[buffer]
        data = constant_of(parsed, tensor)
        if data is None or (tensor.type in _PLAIN_INTEGERS and not _is_quantized(tensor)):
            continue
        stored = _tflite_stored(tensor, np.frombuffer(bytes(data), np.uint8))
        if stored.count > 1:
            yield stored


def _tflite_stored(tensor: Any, data: Array) -> Stored:
    is_vector = tensor.shape is None or len(tensor.shape) <= 1
    if tensor.type in _TFLITE_PACKED_BITS:
        bits = _TFLITE_PACKED_BITS[tensor.type]
        values = unpacked(data, bits, int(np.prod(tensor.shape)))
        return Stored(values.size, bits, int(np.count_nonzero(values == 0)), False, is_vector)
    return _stored(data.view(_TFLITE_TYPES[tensor.type]), _zero_point(tensor), is_vector)


def unpacked(data: Array, bits: int, count: int) -> Array:
    """Return ``count`` numbers of 2 or 4 bits, least significant first, from their bytes; without their signs."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.asarray(np.bitwise_and(np.right_shift(data.reshape(-1, 1), shifts), 2**bits - 1).reshape(-1)[:count])


def _block_scales(graph: Any) -> Iterator[int]:
    """Yield the tensors that hold the scales of blockwise weights."""
    for tensor in graph.tensors:
        details = tensor.quantization.details if tensor.quantization is not None else None
        if isinstance(details, schema.BlockwiseQuantizationT):
            yield from (int(details.scales), int(details.zeroPoints))


def _is_quantized(tensor: Any) -> bool:
    scale = tensor.quantization.scale if tensor.quantization is not None else None
    return scale is not None and len(scale) > 0


def _zero_point(tensor: Any) -> int:
    points = tensor.quantization.zeroPoint if _is_quantized(tensor) else None
    return int(points[0]) if points is not None and len(points) == 1 else 0


def _stored(values: Array, zero_point: int = 0, is_vector: bool = False) -> Stored:
    return Stored(
        count=values.size,
        bits=values.dtype.itemsize * 8,
        zeros=int(np.count_nonzero(values == zero_point)),
        is_full_float=values.dtype.kind == "f" and values.dtype.itemsize >= 4,
        is_vector=is_vector,
    )


_ONNX_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
_ONNX_PACKED_BITS = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT2: 2,
    onnx.TensorProto.UINT2: 2,
}
_ONNX_QUANTIZED = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32, *_ONNX_PACKED_BITS}
_QUANTIZED_SUFFIX = "_quantized"


def _onnx_weights(model: bytes) -> Iterator[Stored]:
    """List initializers; onnxruntime names what it makes of ``w``: ``w_quantized``, ``w_scale``, ``w_zero_point``."""
    open_session(Format.ONNX, model)
    parsed = onnx.load_from_string(model)
    tensors = {item.name: item for item in parsed.graph.initializer}
    made = {_base(name) for name in tensors if name.endswith(_QUANTIZED_SUFFIX)}
    beside = {f"{base}{suffix}" for base in made for suffix in ("_scale", "_zero_point")}
    for name, tensor in tensors.items():
        is_weight = tensor.data_type in _ONNX_FLOATS or (tensor.data_type in _ONNX_QUANTIZED and _base(name) in made)
        if not is_weight or name in beside or elements(tensor) < 2:
            continue
        stored = _stored(_onnx_values(tensor), _onnx_zero_point(tensors, name), len(tensor.dims) <= 1)
        yield replace(stored, bits=_ONNX_PACKED_BITS.get(tensor.data_type, stored.bits))


def _onnx_values(tensor: Any) -> Array:
    values = onnx.numpy_helper.to_array(tensor)
    return np.asarray(values.astype(np.int8) if tensor.data_type in _ONNX_PACKED_BITS else values)


def _base(name: str) -> str:
    return name.removesuffix(_QUANTIZED_SUFFIX)


def _onnx_zero_point(tensors: dict[str, Any], name: str) -> int:
    point = tensors.get(f"{_base(name)}_zero_point") if name.endswith(_QUANTIZED_SUFFIX) else None
    values = np.unique(onnx.numpy_helper.to_array(point)) if point is not None else np.zeros(1)
    return int(values[0]) if values.size == 1 else 0
