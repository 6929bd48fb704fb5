"""Embedding tables in ``.tflite``: GATHER over a constant table becomes EMBEDDING_LOOKUP, which can be quantized.

Keras' Embedding converts to GATHER, and ai-edge-quantizer leaves GATHER's table in float32. EMBEDDING_LOOKUP reads an
int8 table and gives float32 rows, so only the rows that are looked up are ever dequantized. It takes ids of rank 1:
a RESHAPE before it flattens them, a RESHAPE after it gives the rows the shape that GATHER gave.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pipeline.compress.schemes.tflite_file import TfliteModel, code_index, constant_of, text_of

_FREE = -1


def look_up_embeddings(model: TfliteModel) -> int:
    """Rewrite, in place, every GATHER of rows from a constant float table; returns how many there were.

    Answers stay bit-identical. Left alone: other axes, ids that are not int32, more than one free axis in the ids.
    """
    gather = code_index(model, schema.BuiltinOperator.GATHER)
    rewritten = 0
    for graph in model.subgraphs:
        replaced: list[Any] = []
        for operator in graph.operators:
            if operator.opcodeIndex == gather and _fits(model, graph, operator):
                replaced += _lookup(model, graph, operator)
                rewritten += 1
            else:
                replaced.append(operator)
        graph.operators = replaced
    return rewritten


def _fits(model: TfliteModel, graph: Any, operator: Any) -> bool:
    table, ids = (graph.tensors[index] for index in operator.inputs[:2])
    options = operator.builtinOptions
    return (
        (options.axis, options.batchDims) == (0, 0)
        and constant_of(model, table) is not None
        and (table.type, ids.type) == (schema.TensorType.FLOAT32, schema.TensorType.INT32)
        and len(table.shape) > 1
        and _declared_shape(ids).count(_FREE) <= 1
    )


def _lookup(model: TfliteModel, graph: Any, gather: Any) -> list[Any]:
    table_index, ids_index = gather.inputs[:2]
    table, ids = graph.tensors[table_index], graph.tensors[ids_index]
    stem = text_of(graph.tensors[gather.outputs[0]].name)
    row_shape = list(table.shape[1:])
    count = int(np.prod(ids.shape))
    flat_ids = _computed(graph, f"{stem}/ids", [count], [_FREE], ids.type)
    rows = _computed(graph, f"{stem}/rows", [count, *row_shape], [_FREE, *row_shape], table.type)
    flat = _shape_constant(model, graph, f"{stem}/flat", [_FREE])
    full = _shape_constant(model, graph, f"{stem}/shape", [*_declared_shape(ids), *row_shape])
    return [
        _reshape(model, ids_index, flat, flat_ids),
        _operator(model, schema.BuiltinOperator.EMBEDDING_LOOKUP, [flat_ids, table_index], [rows]),
        _reshape(model, rows, full, gather.outputs[0]),
    ]


def _declared_shape(tensor: Any) -> list[int]:
    free = tensor.shapeSignature
    return [int(axis) for axis in (tensor.shape if free is None or len(free) == 0 else free)]


def _computed(graph: Any, name: str, shape: Sequence[int], free: Sequence[int], dtype: int) -> int:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.shapeSignature = name.encode(), list(shape), list(free)
    tensor.type, tensor.buffer = dtype, 0
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _shape_constant(model: TfliteModel, graph: Any, name: str, values: Sequence[int]) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.asarray(values, "<i4").tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type = name.encode(), [len(values)], schema.TensorType.INT32
    tensor.buffer = len(model.buffers) - 1
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _reshape(model: TfliteModel, source: int, shape: int, result: int) -> Any:
    operator = _operator(model, schema.BuiltinOperator.RESHAPE, [source, shape], [result])
    operator.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
    operator.builtinOptions = schema.ReshapeOptionsT()
    return operator


def _operator(model: TfliteModel, builtin: int, inputs: list[int], outputs: list[int]) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex = code_index(model, builtin)
    operator.inputs, operator.outputs = inputs, outputs
    return operator
