"""The constants of a ``.tflite`` file, found through its schema and changed in place."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pipeline.core.tensors import Array, Tensors
from pipeline.score.litert_inside import litert_lookups
from pipeline.seal.constants import Constant, high_bits

_BITS = {
    schema.TensorType.FLOAT32: 32,
    schema.TensorType.FLOAT16: 16,
    schema.TensorType.BFLOAT16: 16,
    schema.TensorType.INT16: 16,
    schema.TensorType.INT8: 8,
    schema.TensorType.UINT8: 8,
    schema.TensorType.INT4: 4,
    schema.TensorType.INT2: 2,
}
_BIAS = schema.TensorType.INT32  # counts where it has a scale: others are shapes, axes, ids
# What only turns a constant into the form that the next operator reads.
_PLUMBING = {"DEQUANTIZE", "CAST", "RESHAPE", "TRANSPOSE"}
# A corrupted length would ask for all memory there is, a corrupted bound for a loop without end.
_BOUNDS = {
    *("RANGE", "FILL", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "FLOOR_MOD"),
    *("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL"),
}
_TABLE_INPUT = {"GATHER": 0, "GATHER_ND": 0, "EMBEDDING_LOOKUP": 1}
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


@dataclass(frozen=True)
class _Read:
    """A constant as one operator reads it: the buffer, the tensor it is stored as, and the one that is read."""

    buffer: int
    tensor: Any
    operator: str
    is_table: bool
    read_as: str


class TfliteConstants:
    """A ``.tflite`` model seen as its constants; the bytes must be ones that an engine has loaded."""

    def __init__(self, model: bytes) -> None:
        self._model = model
        self._root = schema.Model.GetRootAs(model, 0)
        found = list(self._walk())
        bounds = {read.buffer for read in found if read.operator in _BOUNDS}
        self._reads = {read.buffer: read for read in reversed(found) if read.buffer not in bounds}
        self.constants: tuple[Constant, ...] = tuple(
            self._constant(self._reads[buffer]) for buffer in sorted(self._reads)
        )

    def start(self, constant: Constant) -> int:
        """Return where in the file a constant's bytes start."""
        return self._span(constant.place)[0]

    def changed(self, constant: Constant, data: bytes) -> bytes:
        """Return the model's bytes with one constant's bytes replaced by as many others."""
        start, size = self._span(constant.place)
        if len(data) != size:
            raise ValueError(f"{constant.name} has {size} bytes, not {len(data)}")
        return self._model[:start] + data + self._model[start + size :]

    def lookups(self, inputs: Tensors) -> Mapping[str, Array]:
        """Return which entries of every table the rows look up, by the constant's name; raises ModelError."""
        looked = litert_lookups(self._model, inputs, _TABLE_INPUT)
        return {
            _name(read.tensor): looked[read.read_as]
            for read in self._reads.values()
            if read.is_table and read.read_as in looked
        }

    def _walk(self) -> Iterator[_Read]:
        for index in range(self._root.SubgraphsLength()):
            graph = self._root.Subgraphs(index)
            forms = {tensor: (tensor, tensor) for tensor in range(graph.TensorsLength())}
            for place in range(graph.OperatorsLength()):
                yield from self._reads_of(graph, graph.Operators(place), forms)

    def _reads_of(self, graph: Any, operator: Any, forms: dict[int, tuple[int, int]]) -> Iterator[_Read]:
        kind = self._kind(operator)
        given = [operator.Inputs(place) for place in range(operator.InputsLength())]
        constants = [self._is_weight(graph, forms[tensor][0]) if tensor >= 0 else False for tensor in given]
        if kind in _PLUMBING and constants and constants[0]:
            forms[operator.Outputs(0)] = (forms[given[0]][0], operator.Outputs(0))
            return
        for place, tensor in enumerate(given):
            if constants[place]:
                stored = graph.Tensors(forms[tensor][0])
                is_table = _TABLE_INPUT.get(kind) == place
                yield _Read(stored.Buffer(), stored, kind, is_table, _name(graph.Tensors(tensor)))

    def _kind(self, operator: Any) -> str:
        code = self._root.OperatorCodes(operator.OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files fill the deprecated field alone
        return str(_OPERATORS.get(number, number))

    def _is_weight(self, graph: Any, index: int) -> bool:
        tensor = graph.Tensors(index)
        if self._span(tensor.Buffer())[1] == 0:
            return False
        how = tensor.Quantization()
        has_scale = how is not None and how.ScaleLength() > 0
        return tensor.Type() in _BITS or (tensor.Type() == _BIAS and has_scale)

    def _span(self, buffer: int) -> tuple[int, int]:
        """Return where a buffer's bytes start in the file, and how many there are; files above 2 GB keep them apart."""
        item = self._root.Buffers(buffer)
        if item.Offset() > 1:
            return int(item.Offset()), int(item.Size())
        field = item._tab.Offset(4)
        return (int(item._tab.Vector(field)), int(item.DataLength())) if field else (0, 0)

    def _constant(self, read: _Read) -> Constant:
        start, size = self._span(read.buffer)
        bits = _BITS.get(read.tensor.Type(), 32)
        item_bytes = max(1, bits // 8)
        shape = read.tensor.ShapeAsNumpy() if read.tensor.ShapeLength() else np.ones(1)
        return Constant(
            place=read.buffer,
            name=_name(read.tensor),
            operator=read.operator,
            data=self._model[start : start + size],
            item_bytes=item_bytes,
            high_bits=high_bits(item_bytes, bits),
            entries=int(shape[0]) if read.is_table else None,
        )


def _name(tensor: Any) -> str:
    return (tensor.Name() or b"").decode("utf-8", "replace")
