"""An ``.onnx`` file as it was trained: what it holds, and the one self-contained file that is made of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import TensorProto, version_converter
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from pipeline.core.errors import ModelError
from pipeline.core.files import is_safe_relative, read_bytes

OPSET = 17  # what upgraded models come to; per-channel quantization needs 13
_OPSET_MIN = 13
_IR = 8  # of that opset
_BYTES_MAX = 2**31 - 2**20  # a protobuf message holds 2 GiB; the graph needs some of it
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger",
     "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits", "MatMulIntegerToFloat", "MatMulBnb4",
     "GatherBlockQuantized", "QAttention", "QGemm", "QEmbedLayerNormalization", "QMoE"}
)  # fmt: skip
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def load_onnx(path: Path) -> Any:
    """Read the graph without its external data; raises ModelError when it cannot be read."""
    try:
        model = onnx.load_from_string(read_bytes(path, ModelError, "correct the path of the model"))
    except DecodeError as error:
        raise ModelError(f"{path} is not an onnx model that can be read; export it again.") from error
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        raise ModelError(f"{path} is not an onnx model that can be read; export it again.")
    return model


def has_external_data(model: Any) -> bool:
    """Tell whether weights lie in files beside the model."""
    return any(uses_external_data(tensor) for tensor in _tensors(model))


def require_onnx(path: Path) -> None:
    """Raise ModelError for a model that is damaged or holds what cannot be run or quantized."""
    model = load_onnx(path)
    known = _DOMAINS | {function.domain for function in model.functions}
    for node in _nodes(model):
        if node.domain not in known:
            raise ModelError(
                f"{path}: the operator {node.op_type} is of the domain {node.domain!r}, which onnxruntime does not "
                "know; export the model without it."
            )
        if node.op_type in _QUANTIZED_OPS or node.op_type.startswith("QLinear"):
            raise ModelError(f"{path} is already quantized (it holds {node.op_type}); give the float model.")
    for value in (*model.graph.input, *model.graph.output):
        _require_plain(path, value)
    halves = sum(tensor.data_type in _HALVES for tensor in _tensors(model))
    if halves:
        raise ModelError(f"{path}: {halves} of its tensors are float16; export the model in float32.")
    external_files(path, model)


def _require_plain(path: Path, value: Any) -> None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(f"{path}: {value.name!r} is a {kind}, not a tensor; export plain tensors (zipmap off).")
    if value.type.tensor_type.elem_type == TensorProto.STRING:
        raise ModelError(f"{path}: {value.name!r} is text; export the model without that first step.")


def external_files(path: Path, model: Any) -> tuple[Path, ...]:
    """Return the files beside the model that hold its weights, sorted.

    Raises ModelError for one that is missing, too short, or lies outside the model's folder, and for more than 2 GB.
    """
    found, total = set(), 0
    for tensor in filter(uses_external_data, _tensors(model)):
        entries = {entry.key: entry.value for entry in tensor.external_data}
        place = _checked_place(path, entries.get("location", ""))
        offset, size = _number(path, entries, "offset", 0), place.stat().st_size
        length = _number(path, entries, "length", size - offset)
        if offset + length > size:
            raise ModelError(f"{place} is shorter than the weights that {path} expects in it; copy it again.")
        found.add(place)
        total += length
    if total > _BYTES_MAX:
        raise ModelError(
            f"{path} has {total / 1e9:.1f} GB of weights; up to 2 GB fit into the one file that is made of them."
        )
    return tuple(sorted(found))


def _checked_place(path: Path, location: str) -> Path:
    place = path.parent / location
    inside = is_safe_relative(location) and place.resolve().is_relative_to(path.parent.resolve())
    if not inside:
        raise ModelError(f"{path} wants weights from {location!r}, outside its own folder, which is never read.")
    if not place.is_file():
        raise ModelError(f"{path} keeps weights in {place}, which does not exist; copy it beside the model.")
    return place


def _number(path: Path, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not text.isdecimal():
        raise ModelError(f"{path}: the {key} of its external weights is {text!r}, not a number; export it again.")
    return int(text)


def read_onnx(path: Path) -> bytes:
    """Return one self-contained model: weights inlined, an old opset upgraded; its answers are not yet compared.

    Raises ModelError for what :func:`require_onnx` refuses, and for an opset that cannot be upgraded.
    """
    model = load_onnx(path)
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), OPSET)
    outside = external_files(path, model)
    if not outside and opset >= _OPSET_MIN:
        return read_bytes(path, ModelError)
    for tensor in filter(uses_external_data, list(_tensors(model))):
        load_external_data_for_tensor(tensor, str(path.parent))
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
    if opset < _OPSET_MIN:
        model = _upgraded(path, model, opset)
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise ModelError(f"{path} does not fit into one file of 2 GB with its weights.") from error


def _upgraded(path: Path, model: Any, opset: int) -> Any:
    names = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in names]  # before IR 4 weights were inputs too
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, _IR)
    try:
        return version_converter.convert_version(model, OPSET)
    except (RuntimeError, ValueError, version_converter.ConvertError) as error:
        brief = " ".join(str(error).split())[:160]
        raise ModelError(
            f"{path} is of opset {opset}, which could not be upgraded to {OPSET} ({brief}); export it with opset "
            f"{_OPSET_MIN} or later."
        ) from error


def _graphs(model: Any) -> Iterator[Any]:
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
