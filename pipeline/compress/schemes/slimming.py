"""The same ``.tflite`` model in fewer bytes: what no engine reads is left out, and nothing is written twice.

Left out: the converter's metadata, the names of inner tensors, default values that readers know, operator codes and
tensors that nothing uses, empty vectors. Written once: equal buffers, and equal strings and layouts of the flatbuffer
itself. Names of inputs and outputs and of signatures stay. Answers stay bit-identical.
"""

from collections.abc import Iterable
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pipeline.compress.schemes.tflite_file import TfliteModel, parse_tflite

_IDENTIFIER = b"TFL3"


def slimmed(data: bytes) -> bytes:
    """Return an equal model in fewer bytes; raises ModelError for bytes that are not a ``.tflite`` model."""
    slim = written_slim(parse_tflite(data))
    return slim if len(slim) < len(data) else data


def written_slim(model: TfliteModel) -> bytes:
    """Write a model in as few bytes as this module can; the object is changed."""
    _drop_words(model)
    _drop_unused_tensors(model)
    _drop_unused_codes(model)
    _merge_buffers(model)
    for graph in model.subgraphs:
        _slim_graph(graph)
    return _packed(model)


def _drop_words(model: TfliteModel) -> None:
    model.metadata, model.metadataBuffer, model.description = None, None, None
    for number, graph in enumerate(model.subgraphs):
        graph.name = None
        outside = {int(index) for index in (*graph.inputs, *graph.outputs)} if number == 0 else set()
        for index, tensor in enumerate(graph.tensors):
            if index not in outside:
                tensor.name = None


def _drop_unused_tensors(model: TfliteModel) -> None:
    """Drop tensors that no operator, input, output or signature names, and number the others anew."""
    for number, graph in enumerate(model.subgraphs):
        used = {int(index) for index in (*graph.inputs, *graph.outputs)}
        for operator in graph.operators:
            used.update(map(int, (*operator.inputs, *operator.outputs, *_or_none(operator.intermediates))))
        for signature in _signatures(model, number):
            used.update(int(item.tensorIndex) for item in (*_or_none(signature.inputs), *_or_none(signature.outputs)))
        for index in sorted(used - {-1}):
            used.update(_scale_tensors(graph.tensors[index]))
        _renumber(model, number, {old: new for new, old in enumerate(sorted(used - {-1}))})


def _renumber(model: TfliteModel, number: int, places: dict[int, int]) -> None:
    graph = model.subgraphs[number]
    graph.tensors = [graph.tensors[old] for old in places]
    graph.inputs, graph.outputs = _moved(graph.inputs, places), _moved(graph.outputs, places)
    for operator in graph.operators:
        operator.inputs, operator.outputs = _moved(operator.inputs, places), _moved(operator.outputs, places)
        if operator.intermediates is not None:
            operator.intermediates = _moved(operator.intermediates, places)
    for signature in _signatures(model, number):
        for item in (*_or_none(signature.inputs), *_or_none(signature.outputs)):
            item.tensorIndex = places[int(item.tensorIndex)]
    for tensor in graph.tensors:
        details = None if tensor.quantization is None else tensor.quantization.details
        if isinstance(details, schema.BlockwiseQuantizationT):
            details.scales = places.get(int(details.scales), details.scales)
            details.zeroPoints = places.get(int(details.zeroPoints), details.zeroPoints)


def _moved(indices: Iterable[int], places: dict[int, int]) -> list[int]:
    return [places.get(int(index), -1) for index in indices]


def _scale_tensors(tensor: Any) -> set[int]:
    details = None if tensor.quantization is None else tensor.quantization.details
    if not isinstance(details, schema.BlockwiseQuantizationT):
        return set()
    return {int(details.scales)} | ({int(details.zeroPoints)} if details.zeroPoints > 0 else set())


def _signatures(model: TfliteModel, number: int) -> list[Any]:
    return [item for item in model.signatureDefs or () if item.subgraphIndex == number]


def _or_none(values: Any) -> Any:
    return () if values is None else values


def _drop_unused_codes(model: TfliteModel) -> None:
    used = sorted({operator.opcodeIndex for graph in model.subgraphs for operator in graph.operators})
    places = {old: new for new, old in enumerate(used)}
    model.operatorCodes = [model.operatorCodes[old] for old in used]
    for graph in model.subgraphs:
        for operator in graph.operators:
            operator.opcodeIndex = places[operator.opcodeIndex]


def _merge_buffers(model: TfliteModel) -> None:
    """Keep one of equal constants, and one empty buffer for all that is computed.

    Float vectors stay apart: they may be biases, which are corrected one by one.
    """
    kept: list[Any] = [schema.BufferT()]
    places: dict[tuple[bytes, int | None], int] = {(b"", None): 0}
    moved: dict[int, int] = {}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        if tensor.buffer not in moved:
            data = model.buffers[tensor.buffer].data
            content = b"" if data is None else bytes(data)
            may_be_bias = content and tensor.type == schema.TensorType.FLOAT32 and _rank(tensor) <= 1
            place = places.setdefault((content, tensor.buffer if may_be_bias else None), len(kept))
            if place == len(kept):
                kept.append(model.buffers[tensor.buffer])
            moved[tensor.buffer] = place
        tensor.buffer = moved[tensor.buffer]
    model.buffers = kept


def _rank(tensor: Any) -> int:
    return 0 if tensor.shape is None else len(tensor.shape)


def _slim_graph(graph: Any) -> None:
    for tensor in graph.tensors:
        quantization = tensor.quantization
        if quantization is not None and not _says_something(quantization):
            tensor.quantization = None
        elif quantization is not None:
            quantization.min = quantization.max = None
        if tensor.shapeSignature is not None and np.array_equal(tensor.shapeSignature, _or_none(tensor.shape)):
            tensor.shapeSignature = None  # no axis is free
    for operator in graph.operators:
        operator.intermediates = _unless_empty(operator.intermediates)
        operator.mutatingVariableInputs = _unless_empty(operator.mutatingVariableInputs)


def _says_something(quantization: Any) -> bool:
    return quantization.details is not None or (quantization.scale is not None and len(quantization.scale) > 0)


def _unless_empty(values: Any) -> Any:
    return None if values is None or len(values) == 0 else values


def _packed(model: TfliteModel) -> bytes:
    builder = _SharingBuilder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers ships no types
    """Writes equal vectors of numbers once: layers of one width share their shapes, scales and zero points."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[int, int, bytes], int] = {}
        self._before = 0
        self._layout = (1, 1)
        self._has_offsets = False

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:  # noqa: N802, N803
        """Begin a vector, and remember where the file ended before it."""
        self._before, self._layout, self._has_offsets = self.Offset(), (elemSize, alignment), False
        return int(super().StartVector(elemSize, numElems, alignment))

    def PrependUOffsetTRelative(self, off: int) -> None:  # noqa: N802
        """Write a reference; the same bytes elsewhere would refer to something else."""
        self._has_offsets = True
        super().PrependUOffsetTRelative(off)

    def EndVector(self, numElems: int | None = None) -> int:  # noqa: N802, N803
        """End a vector; when an equal one is in the file already, take this one back and refer to that."""
        size = self._layout[0] * self.vectorNumElems
        offset = int(super().EndVector(numElems))
        if self._has_offsets or size == 0:
            return offset
        key = (*self._layout, bytes(self.Bytes[self.head : self.head + 4 + size]))
        if key in self._written:
            self.head: int = len(self.Bytes) - self._before
            return self._written[key]
        self._written[key] = offset
        return offset
