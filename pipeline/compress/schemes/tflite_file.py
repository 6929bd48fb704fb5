"""Reading and writing ``.tflite`` files as objects that can be edited."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from pipeline.core.names import Format
from pipeline.engines.open import open_session

TfliteModel = Any  # ai_edge_litert's ModelT, generated from the flatbuffer schema without types

_MODELS_KEPT = 8  # as many float exports as a worker of a search keeps


def parse_tflite(data: bytes) -> TfliteModel:
    """Read ``.tflite`` bytes into an object; every buffer's data is inside it.

    The interpreter loads the bytes first, because it checks what the object reader believes.
    Raises ModelError when the bytes are not a model that can be loaded.
    """
    open_session(Format.TFLITE, data)
    return parse_own(data)


@functools.lru_cache(maxsize=_MODELS_KEPT)
def parse_once(data: bytes) -> TfliteModel:
    """Read bytes as :func:`parse_tflite` does, for reading alone: equal bytes give the same object again.

    Whoever wants to change it takes :func:`copied` first.
    """
    return parse_tflite(data)


def parse_own(data: bytes) -> TfliteModel:
    """Read bytes that were written here a moment ago: nobody else could have bent them, so no engine checks them."""
    model = flatbuffer_utils.read_model_from_bytearray(data)
    for code in model.operatorCodes:  # old files keep their operator in the deprecated field alone
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    for buffer in model.buffers:
        if buffer.data is not None:  # an array is written at once, any other kind of bytes one at a time
            buffer.data = np.asarray(memoryview(buffer.data), np.uint8)
    return model


def copied(model: TfliteModel) -> TfliteModel:
    """Return a model that may be changed, but for its arrays: buffers are shared with the original."""
    return _copied(model)


def _copied(value: Any) -> Any:
    if isinstance(value, list):
        return [_copied(item) for item in value] if value and hasattr(value[0], "__dict__") else value[:]
    if not hasattr(value, "__dict__"):
        return value
    twin = object.__new__(type(value))
    twin.__dict__.update({name: _copied(item) for name, item in value.__dict__.items()})
    return twin


def write_tflite(model: TfliteModel) -> bytes:
    """Write a model; equal models give equal bytes.

    Buffers go inside the flatbuffer: tflite-runtime 2.14 does not know the ones appended behind it.
    """
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def text_of(name: bytes | str) -> str:
    """Return a name as text; the schema's objects hold bytes when read and text when made."""
    return name.decode() if isinstance(name, bytes) else name


def constant_of(model: TfliteModel, tensor: Any) -> Any | None:
    """Return a constant tensor's bytes as a uint8 array, or None for a tensor that is computed."""
    data = model.buffers[tensor.buffer].data
    return None if data is None or len(data) == 0 else data


def operators(model: TfliteModel, builtin: int) -> Iterator[tuple[Any, Any]]:
    """Yield (subgraph, operator) of every operator of one builtin kind."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            if model.operatorCodes[operator.opcodeIndex].builtinCode == builtin:
                yield graph, operator


def code_index(model: TfliteModel, builtin: int) -> int:
    """Return the index of a builtin's operator code, adding version 1 of it where it is missing."""
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = builtin
    code.deprecatedBuiltinCode = min(builtin, 127)
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
