"""How each operator's weights are stored in a file, for reports: counted in the file, not taken from a quantizer."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import onnx
from ai_edge_litert import schema_py_generated as schema

from pipeline.compress.schemes.onnx_graph import WEIGHT_INPUTS, elements
from pipeline.compress.schemes.tflite_file import constant_of, parse_tflite
from pipeline.compress.schemes.tflite_groups import WEIGHT_INPUTS as TFLITE_WEIGHT_INPUTS
from pipeline.compress.schemes.tflite_groups import kind_of, scope_of, short_name
from pipeline.core.names import Format
from pipeline.core.records import StoredOperator

_TYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
_ONNX_BITS = {onnx.TensorProto.INT4: 4, onnx.TensorProto.UINT4: 4, onnx.TensorProto.INT2: 2, onnx.TensorProto.UINT2: 2}
_ONNX_PASSED = frozenset({"DequantizeLinear", "Cast", "Transpose", "Reshape"})
_ONNX_WEIGHTS = {
    **WEIGHT_INPUTS,
    "MatMulInteger": (1,),
    "ConvInteger": (1,),
    "GatherBlockQuantized": (0,),
    "DynamicQuantizeLSTM": (1, 2),
}


def coverage_of_operators(model_format: Format, model: bytes, names: Sequence[str] = ()) -> tuple[StoredOperator, ...]:
    """List the operators of a file that have constant weights, in the order of the graph.

    ``names`` are those of the float parent's operators in the same order, because slimmed files have forgotten them.
    Raises ModelError for bytes that are not a model.
    """
    found = tuple(_onnx(model) if model_format is Format.ONNX else _tflite(model))
    if len(names) != len(found):
        return found
    return tuple(replace(item, name=name) for item, name in zip(found, names, strict=True))


def _tflite(data: bytes) -> Iterator[StoredOperator]:
    model = parse_tflite(data)
    for graph in model.subgraphs:
        sources = {
            int(operator.outputs[0]): int(operator.inputs[0])
            for operator in graph.operators
            if kind_of(model, operator) == "DEQUANTIZE"
        }
        for operator in graph.operators:
            tensors = list(_tflite_weights(model, graph, operator, sources))
            if tensors:
                size = sum(len(model.buffers[tensor.buffer].data) for tensor in tensors)
                name = short_name(scope_of(graph, operator))
                yield StoredOperator(kind_of(model, operator), name, _tflite_type(tensors[0]), size)


def _tflite_weights(model: Any, graph: Any, operator: Any, sources: dict[int, int]) -> Iterator[Any]:
    code = int(model.operatorCodes[operator.opcodeIndex].builtinCode)
    for place in TFLITE_WEIGHT_INPUTS.get(code, ()):
        index = int(operator.inputs[place]) if place < len(operator.inputs) else -1
        tensor = graph.tensors[sources.get(index, index)]
        if index != -1 and constant_of(model, tensor) is not None:
            yield tensor


def _tflite_type(tensor: Any) -> str:
    details = None if tensor.quantization is None else tensor.quantization.details
    in_blocks = " in blocks" if isinstance(details, schema.BlockwiseQuantizationT) else ""
    return f"{_TYPES[tensor.type]}{in_blocks}"


def _onnx(data: bytes) -> Iterator[StoredOperator]:
    model = onnx.load_from_string(data)
    constants = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        places = [place for place in _ONNX_WEIGHTS.get(node.op_type, ()) if place < len(node.input)]
        found = [_source(node.input[place], constants, makers) for place in places]
        weights = [item for item in found if item is not None and elements(item[0]) > 1]
        if weights:
            size = sum(elements(tensor) * _bits(tensor) // 8 for tensor, _ in weights)
            yield StoredOperator(node.op_type, node.name, _onnx_type(*weights[0], node), size)


def _source(name: str, constants: dict[str, Any], makers: dict[str, Any]) -> tuple[Any, bool] | None:
    """Follow a weight back to its constant; tells whether it is dequantized in blocks on the way."""
    in_blocks = False
    while name not in constants:
        maker = makers.get(name)
        if maker is None or maker.op_type not in _ONNX_PASSED:
            return None
        in_blocks |= any(item.name == "block_size" and item.i for item in maker.attribute)
        name = maker.input[0]
    return constants[name], in_blocks


def _onnx_type(tensor: Any, in_blocks: bool, node: Any) -> str:
    blocks = " in blocks" if in_blocks or node.op_type == "GatherBlockQuantized" else ""
    name = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
    return f"{'float32' if name == 'float' else name}{blocks}"


def _bits(tensor: Any) -> int:
    if tensor.data_type in _ONNX_BITS:
        return _ONNX_BITS[tensor.data_type]
    return int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize) * 8
