"""A ``.tflite`` file as it was trained: what it holds, and the plain float model that is made of it."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pipeline.compress.schemes.tflite_file import constant_of, operators, parse_tflite, text_of, write_tflite
from pipeline.core.errors import ModelError
from pipeline.core.files import read_bytes
from pipeline.core.names import Format
from pipeline.engines.open import open_session

_OP, _TYPE = schema.BuiltinOperator, schema.TensorType
_REMEMBERING = frozenset({_OP.VAR_HANDLE, _OP.READ_VARIABLE, _OP.ASSIGN_VARIABLE})
_STORED = frozenset({_TYPE.INT8, _TYPE.UINT8, _TYPE.INT4, _TYPE.INT16})
# What the object reader raises on bytes that are no flatbuffer of a model.
_DAMAGE = (
    struct.error,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
    KeyError,
    RecursionError,
    MemoryError,
    OverflowError,
)


def require_tflite(path: Path) -> None:
    """Raise ModelError for a model that is damaged or holds what cannot be run or quantized."""
    data = read_bytes(path, ModelError, "correct the path of the model")
    _require_known_operators(path, data)
    try:
        open_session(Format.TFLITE, data)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    model = parse_tflite(data)
    _require_no_text(path, model)
    remembering = [item for item in model.operatorCodes if item.builtinCode in _REMEMBERING]
    if remembering:
        raise ModelError(
            f"{path} is stateful: it keeps variables from one call to the next, so that answers depend on the order "
            "of rows; convert a model without state."
        )
    stored = _quantized_weights(model)
    if stored:
        raise ModelError(
            f"{path} is already quantized: {len(stored)} of its weights are integers, such as {stored[0]}; "
            "convert the float model without optimizations."
        )


def _require_known_operators(path: Path, data: bytes) -> None:
    """Look at the list of operators before an interpreter does, whose words for a missing one are for programmers."""
    try:
        model = schema.Model.GetRootAs(data, 0)
        codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
        custom = sorted({text_of(code.CustomCode()) for code in codes if code.CustomCode()})
    except _DAMAGE as error:
        raise ModelError(f"{path} is not a tflite model that can be read; convert it again.") from error
    flex = [name for name in custom if name.startswith("Flex")]
    if flex:
        raise ModelError(
            f"{path} needs TensorFlow's own operators ({', '.join(flex)}), which LiteRT does not have; convert it "
            "without SELECT_TF_OPS (a recurrent layer: with a fixed batch of 1, or unroll=True)."
        )
    if custom:
        raise ModelError(f"{path} needs the custom operators {', '.join(custom)}, whose code is not in the file.")


def _require_no_text(path: Path, model: Any) -> None:
    for graph in model.subgraphs:
        for index in (*graph.inputs, *graph.outputs):
            tensor = graph.tensors[index]
            if tensor.type in (_TYPE.STRING, _TYPE.RESOURCE, _TYPE.VARIANT) and graph is model.subgraphs[0]:
                raise ModelError(f"{path}: {text_of(tensor.name)!r} is text; convert the model without that step.")


def _quantized_weights(model: Any) -> list[str]:
    """Name the constants that stand for real numbers by a scale."""
    return [
        text_of(tensor.name)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type in _STORED and constant_of(model, tensor) is not None and _has_scale(tensor)
    ]


def _has_scale(tensor: Any) -> bool:
    how = tensor.quantization
    if how is None:
        return False
    return how.details is not None or (how.scale is not None and len(how.scale) > 0)


def holds_halves(model: Any) -> bool:
    """Tell whether weights are stored as float16 and widened when the model runs."""
    return any(_is_half(model, graph, operator) for graph, operator in operators(model, _OP.DEQUANTIZE))


def _is_half(model: Any, graph: Any, operator: Any) -> bool:
    tensor = graph.tensors[operator.inputs[0]]
    return bool(tensor.type == _TYPE.FLOAT16) and constant_of(model, tensor) is not None


def read_tflite(path: Path) -> bytes:
    """Return the model's bytes; weights stored as float16 come out as the same numbers in float32."""
    data = read_bytes(path, ModelError, "correct the path of the model")
    if data[4:8] != b"TFL3":
        return data
    model = parse_tflite(data)
    if not holds_halves(model):
        return data
    for graph in model.subgraphs:
        _widen(model, graph)
    return write_tflite(model)


def _widen(model: Any, graph: Any) -> None:
    kept = []
    for operator in graph.operators:
        is_dequantize = model.operatorCodes[operator.opcodeIndex].builtinCode == _OP.DEQUANTIZE
        if not is_dequantize or not _is_half(model, graph, operator):
            kept.append(operator)
            continue
        halves: Any = constant_of(model, graph.tensors[operator.inputs[0]])
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(halves.view(np.float16).astype(np.float32).tobytes(), np.uint8)
        model.buffers.append(buffer)
        graph.tensors[operator.outputs[0]].buffer = len(model.buffers) - 1
        model.buffers[graph.tensors[operator.inputs[0]].buffer].data = None
    graph.operators = kept
