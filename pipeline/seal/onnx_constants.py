"""The constants of an ``.onnx`` file: initializers, also of the bodies of loops and branches."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import numpy_helper

from pipeline.core.tensors import Array, Tensors
from pipeline.score.onnx_inside import onnx_lookups
from pipeline.seal.constants import Constant, high_bits

_BITS = {
    onnx.TensorProto.FLOAT: 32,
    onnx.TensorProto.FLOAT16: 16,
    onnx.TensorProto.BFLOAT16: 16,
    onnx.TensorProto.DOUBLE: 64,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
}
_BIAS = onnx.TensorProto.INT32  # counts where it is read back as real numbers: others are shapes, axes, ids
# What only turns a constant into the form that the next operator reads.
_PLUMBING = {"DequantizeLinear", "Cast", "Reshape", "Transpose", "Identity"}
# Scales and zero points: an engine may refuse other values than the ones it knows.
_SCALES = {
    "QuantizeLinear": {1, 2},
    "DequantizeLinear": {1, 2},
    "QLinearConv": {1, 2, 4, 5, 6, 7},
    "QLinearMatMul": {1, 2, 4, 5, 6, 7},
    "MatMulInteger": {2, 3},
    "ConvInteger": {2, 3},
    "GatherBlockQuantized": {2, 3},
    "MatMulNBits": {2, 3},
}
# A corrupted length would ask for all memory there is, a corrupted bound for a loop without end.
_BOUNDS = {
    *("Range", "Resize", "Upsample", "NonMaxSuppression", "Expand", "Mod"),
    *("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"),
}
_TABLES = {"Gather": 0, "GatherND": 0, "GatherBlockQuantized": 0}


class OnnxConstants:
    """An ``.onnx`` model seen as its constants; the bytes must be ones that an engine has loaded."""

    def __init__(self, model: bytes) -> None:
        self._bytes = model
        self._model = onnx.load_from_string(model)
        graphs = list(_graphs(self._model.graph))
        self._tensors = [tensor for graph in graphs for tensor in graph.initializer]
        nodes = [node for graph in graphs for node in graph.node]
        weights = {item.name for item in self._tensors if item.data_type in _BITS} | self._biases(nodes)
        for tensor in self._tensors:
            if tensor.name in weights and not tensor.raw_data:  # its numbers are in a typed field
                tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
        self._forms: dict[str, str] = {}
        found = list(self._reads(nodes, weights))
        bounds = {name for name, (operator, _) in found if operator in _BOUNDS}
        reads = {name: read for name, read in reversed(found) if name not in bounds}
        self.constants: tuple[Constant, ...] = tuple(
            _constant(place, tensor, *reads[tensor.name])
            for place, tensor in enumerate(self._tensors)
            if tensor.name in reads
        )

    def changed(self, constant: Constant, data: bytes) -> bytes:
        """Return the model's bytes with one constant's bytes replaced by as many others."""
        if len(data) != len(constant.data):
            raise ValueError(f"{constant.name} has {len(constant.data)} bytes, not {len(data)}")
        tensor = self._tensors[constant.place]
        tensor.raw_data = data
        try:
            return bytes(self._model.SerializeToString())
        finally:
            tensor.raw_data = constant.data

    def lookups(self, inputs: Tensors) -> Mapping[str, Array]:
        """Return which entries of every table the rows look up, by the constant's name; raises ModelError."""
        looked = onnx_lookups(self._bytes, inputs, _TABLES)
        tables = {item.name for item in self.constants if item.entries is not None}
        named = {self._forms.get(name, name): indices for name, indices in looked.items()}
        return {name: indices for name, indices in named.items() if name in tables}

    def _biases(self, nodes: list[onnx.NodeProto]) -> set[str]:
        integers = {item.name for item in self._tensors if item.data_type == _BIAS}
        return {node.input[0] for node in nodes if node.op_type == "DequantizeLinear"} & integers

    def _reads(self, nodes: list[onnx.NodeProto], weights: set[str]) -> Iterator[tuple[str, tuple[str, bool]]]:
        """Yield (constant, (operator, whether it is looked up)) for every read of a constant, in graph order."""
        for node in nodes:
            stored = [self._forms.get(name, name) for name in node.input]
            if node.op_type in _PLUMBING and stored and stored[0] in weights:
                self._forms[node.output[0]] = stored[0]
                continue
            for place, name in enumerate(stored):
                if name in weights and place not in _SCALES.get(node.op_type, ()):
                    yield name, (node.op_type, _TABLES.get(node.op_type) == place)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and the bodies of its loops and branches."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _graphs(body)


def _constant(place: int, tensor: onnx.TensorProto, operator: str, is_table: bool) -> Constant:
    bits = _BITS.get(tensor.data_type, 32)
    item_bytes = max(1, bits // 8)
    entries = int(tensor.dims[0]) if is_table and tensor.dims else None
    return Constant(place, tensor.name, operator, tensor.raw_data, item_bytes, high_bits(item_bytes, bits), entries)
