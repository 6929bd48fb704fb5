"""Biases of ``.tflite`` layers: where they are in the file, and what their layers give on average."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from pipeline.compress.schemes.bias import fold_errors, some_rows
from pipeline.compress.schemes.tflite_file import (
    TfliteModel,
    code_index,
    constant_of,
    copied,
    parse_own,
    text_of,
    write_tflite,
)
from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.open import open_session

_Op = schema.BuiltinOperator
_BIAS_INPUTS: Mapping[int, int] = {
    _Op.CONV_2D: 2,
    _Op.DEPTHWISE_CONV_2D: 2,
    _Op.FULLY_CONNECTED: 2,
    _Op.TRANSPOSE_CONV: 3,
}
_Activation = schema.ActivationFunctionType
_ANSWER = "answer:"
_UNFUSED: Mapping[int, int] = {
    _Activation.RELU: _Op.RELU,
    _Activation.RELU6: _Op.RELU6,
    _Activation.RELU_N1_TO_1: _Op.RELU_N1_TO_1,
    _Activation.TANH: _Op.TANH,
}


@dataclass(frozen=True)
class TfliteBiased:
    """A model told apart from its twin, in which activations are operators of their own and can be looked before."""

    model: bytes
    twin: bytes
    looked_at: frozenset[str]  # layers whose outputs the twin answers with
    answers: tuple[str, ...]  # what it calls the model's own outputs
    biases: Mapping[str, int]  # layer to the buffer of its bias, in both files

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the layers whose float bias is their own."""
        return tuple(self.biases)

    def outputs(self, batches: Sequence[Tensors], layers: Sequence[str]) -> dict[str, Array]:
        """Return the layers' outputs before their activations, (rows, channels), averaged over all other axes.

        The engine's own kernels run: those without XNNPACK misread blockwise scales (LiteRT 2.3).
        """
        session = open_session(Format.TFLITE, self.twin)
        parts: dict[str, list[Array]] = {layer: [] for layer in layers}
        for batch in batches:
            found = session.run(batch)
            for layer in layers:
                values = found[layer].reshape(len(found[layer]), -1, found[layer].shape[-1])
                is_answer = layer in self.answers
                parts[layer].append(values.reshape(len(values), -1) if is_answer else values.mean(1, dtype=np.float64))
        return {layer: np.concatenate(kept) for layer, kept in parts.items()}

    def shifted(self, layer: str, shift: Array) -> "TfliteBiased":
        """Return the model with ``shift`` added to a layer's bias, in place in its bytes."""
        buffer = self.biases[layer]
        return replace(self, model=_patched(self.model, buffer, shift), twin=_patched(self.twin, buffer, shift))


def correct_tflite(prepared: bytes, stored: bytes, batches: Iterable[Tensors]) -> bytes:
    """Return ``stored`` with its float biases corrected; the same bytes where none can be, or its twin does not run."""
    model = biased(stored)
    if not model.layers:
        return stored
    rows = some_rows(batches)
    if not rows:
        return stored
    reference = biased(prepared)
    common = [layer for layer in model.layers if layer in reference.looked_at]
    try:
        return fold_errors(reference.outputs(rows, [*common, *reference.answers]), model, rows).model
    except ModelError:
        return stored


def biased(data: bytes) -> TfliteBiased:
    """Find the layers of a model by their number among layers of their kind: storing adds operators, but no layer."""
    model = parse_own(data)
    twin = copied(model)
    looked_at = {layer: _looked_at(twin, operator) for layer, operator in list(_layers(twin))}
    answers = {f"{_ANSWER}{position}": int(index) for position, index in enumerate(_float_outputs(twin))}
    _answer_with(twin, {**looked_at, **answers})
    own = {layer: buffer for layer, operator in _layers(model) if (buffer := _own_bias(model, operator)) is not None}
    return TfliteBiased(data, write_tflite(twin), frozenset(looked_at), tuple(answers), own)


def _answer_with(model: TfliteModel, looked_at: Mapping[str, int]) -> None:
    """Make tensors outputs of the model's only signature, which calls them by their layers."""
    graph = model.subgraphs[0]
    inputs = {text_of(item.name): item.tensorIndex for item in _signature(model).inputs or ()}
    inputs = inputs or {text_of(graph.tensors[index].name): index for index in graph.inputs}
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = b"serving_default", 0
    signature.inputs = [_named(name, index) for name, index in inputs.items()]
    signature.outputs = [_named(layer, index) for layer, index in looked_at.items()]
    graph.outputs = [*looked_at.values()]
    model.signatureDefs = [signature]


def _float_outputs(model: TfliteModel) -> list[int]:
    """Return the outputs in the order of their signature's names, which storing does not change."""
    graph = model.subgraphs[0]
    named = {text_of(item.name): item.tensorIndex for item in _signature(model).outputs or ()}
    ordered = [named[name] for name in sorted(named)] or graph.outputs
    return [int(index) for index in ordered if graph.tensors[index].type == schema.TensorType.FLOAT32]


def _signature(model: TfliteModel) -> Any:
    found = {text_of(item.signatureKey): item for item in model.signatureDefs or ()}
    return found.get("serving_default") or next(iter(found.values()), schema.SignatureDefT())


def _named(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), int(index)
    return entry


def _tensors(model: TfliteModel) -> Iterator[Any]:
    return (tensor for graph in model.subgraphs for tensor in graph.tensors)


def _layers(model: TfliteModel) -> Iterator[tuple[str, Any]]:
    numbers: Counter[int] = Counter()
    for operator in model.subgraphs[0].operators:
        code = int(model.operatorCodes[operator.opcodeIndex].builtinCode)
        if code in _BIAS_INPUTS:
            yield f"{code}:{numbers[code]}", operator
            numbers[code] += 1


def _own_bias(model: TfliteModel, operator: Any) -> int | None:
    """Return the buffer of an operator's float bias when nothing else reads it, else None."""
    graph = model.subgraphs[0]
    place = _BIAS_INPUTS[int(model.operatorCodes[operator.opcodeIndex].builtinCode)]
    index = operator.inputs[place] if place < len(operator.inputs) else -1
    if index == -1 or graph.tensors[operator.outputs[0]].type != schema.TensorType.FLOAT32:
        return None
    bias = graph.tensors[index]
    if bias.type != schema.TensorType.FLOAT32 or constant_of(model, bias) is None:
        return None
    readers = sum(list(other.inputs).count(index) for other in graph.operators)
    sharers = sum(tensor.buffer == bias.buffer for tensor in _tensors(model))
    return int(bias.buffer) if (readers, sharers) == (1, 1) else None


def _looked_at(model: TfliteModel, operator: Any) -> int:
    """Make a fused activation an operator of its own, and return the index of the tensor before it."""
    graph = model.subgraphs[0]
    result = graph.tensors[operator.outputs[0]]
    options = operator.builtinOptions
    activation = getattr(options, "fusedActivationFunction", _Activation.NONE)
    if activation not in _UNFUSED or result.type != schema.TensorType.FLOAT32:
        return int(operator.outputs[0])
    before = schema.TensorT()
    name = bytes(result.name or b"")  # slimmed files name no tensors
    before.name, before.shape, before.type = b"before " + name, result.shape, result.type
    before.shapeSignature, before.buffer = result.shapeSignature, 0
    graph.tensors.append(before)
    follower = schema.OperatorT()
    follower.opcodeIndex = code_index(model, _UNFUSED[activation])
    follower.inputs, follower.outputs = [len(graph.tensors) - 1], [operator.outputs[0]]
    graph.operators.insert(next(at for at, other in enumerate(graph.operators) if other is operator) + 1, follower)
    operator.outputs, options.fusedActivationFunction = [len(graph.tensors) - 1], _Activation.NONE
    return int(operator.outputs[0])


def _patched(data: bytes, buffer: int, shift: Array) -> bytes:
    content = bytearray(data)
    found = schema.Model.GetRootAs(content).Buffers(buffer).DataAsNumpy()
    values = found.view("<f4")
    values += shift.astype(np.float32)
    return bytes(content)
