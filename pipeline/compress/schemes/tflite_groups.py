"""What can be stored in another number format in a ``.tflite`` file, one decision at a time."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from pipeline.compress.schemes.tflite_file import TfliteModel, constant_of, text_of
from pipeline.core.printable import printable

_Op = schema.BuiltinOperator
# Operators that multiply by or look up constants, and which of their inputs those are. The rest of an operator's
# constants (biases, shapes) are left as they are, or follow.
WEIGHT_INPUTS: Mapping[int, tuple[int, ...]] = {
    _Op.CONV_2D: (1,),
    _Op.DEPTHWISE_CONV_2D: (1,),
    _Op.FULLY_CONNECTED: (1,),
    _Op.TRANSPOSE_CONV: (1,),
    _Op.CONV_3D: (1,),
    _Op.BATCH_MATMUL: (0, 1),
    _Op.EMBEDDING_LOOKUP: (1,),
    _Op.GATHER: (0,),
    _Op.UNIDIRECTIONAL_SEQUENCE_LSTM: tuple(range(1, 9)),
    _Op.UNIDIRECTIONAL_SEQUENCE_RNN: (1, 2),
    _Op.BIDIRECTIONAL_SEQUENCE_LSTM: (*range(1, 9), *range(18, 26)),
    _Op.BIDIRECTIONAL_SEQUENCE_RNN: (1, 2, 4, 5),
    _Op.SVDF: (1, 2),
}
_KINDS: dict[int, str] = {value: name for name, value in vars(_Op).items() if not name.startswith("_")}
_NAME_LENGTH = 60


@dataclass(frozen=True)
class WeightOperator:
    """One operator with constant float weights: where it is, and which buffers they are in."""

    graph: int
    position: int
    kind: str
    scope: str
    buffers: tuple[int, ...]


@dataclass(frozen=True)
class OperatorGroup:
    """Operators that can only be stored alike, because they share weights."""

    name: str
    operators: tuple[WeightOperator, ...]

    @property
    def kind(self) -> str:
        """Return the operator kind of the first."""
        return self.operators[0].kind

    @property
    def buffers(self) -> tuple[int, ...]:
        """Return the buffers of all weights, each once."""
        return tuple(sorted({buffer for operator in self.operators for buffer in operator.buffers}))


def kind_of(model: TfliteModel, operator: Any) -> str:
    """Return an operator's builtin name, e.g. CONV_2D."""
    return _KINDS.get(int(model.operatorCodes[operator.opcodeIndex].builtinCode), "CUSTOM")


def scope_of(graph: Any, operator: Any) -> str:
    """Return the text that ai-edge-quantizer matches its rules with: the output names, each with a semicolon."""
    return "".join(f"{text_of(graph.tensors[index].name)};" for index in operator.outputs if index != -1)


def operator_groups(model: TfliteModel) -> tuple[OperatorGroup, ...]:
    """List what can be decided, in the order of the graph; names are unique, printable and stable."""
    found = [*_weight_operators(model)]
    joined = _joined_by_buffers(found)
    names = _unique([short_name(operators[0].scope) for operators in joined])
    return tuple(OperatorGroup(name, tuple(operators)) for name, operators in zip(names, joined, strict=True))


def _weight_operators(model: TfliteModel) -> Iterator[WeightOperator]:
    for graph_index, graph in enumerate(model.subgraphs):
        for position, operator in enumerate(graph.operators):
            buffers = tuple(_weight_buffers(model, graph, operator))
            if buffers:
                yield WeightOperator(
                    graph_index, position, kind_of(model, operator), scope_of(graph, operator), buffers
                )


def _weight_buffers(model: TfliteModel, graph: Any, operator: Any) -> Iterator[int]:
    code = int(model.operatorCodes[operator.opcodeIndex].builtinCode)
    for place in WEIGHT_INPUTS.get(code, ()):
        index = operator.inputs[place] if place < len(operator.inputs) else -1
        if index == -1:
            continue
        tensor = graph.tensors[index]
        if tensor.type == schema.TensorType.FLOAT32 and constant_of(model, tensor) is not None:
            yield int(tensor.buffer)


def _joined_by_buffers(operators: Sequence[WeightOperator]) -> list[list[WeightOperator]]:
    """Join operators that share a buffer, directly or through others, in the order of their first one."""
    leader: dict[int, int] = {}

    def find(buffer: int) -> int:
        while leader.setdefault(buffer, buffer) != buffer:
            buffer = leader[buffer]
        return buffer

    for operator in operators:
        first = find(operator.buffers[0])
        for buffer in operator.buffers[1:]:
            leader[find(buffer)] = first
    joined: dict[int, list[WeightOperator]] = defaultdict(list)
    for operator in operators:
        joined[find(operator.buffers[0])].append(operator)
    return list(joined.values())


def short_name(scope: str) -> str:
    """Return the readable end of the first output's name: converters put the whole call path and fused names in it."""
    words = [part for part in scope.split(";")[0].split("/") if part]
    while len(words) > 1 and len("/".join(words)) > _NAME_LENGTH:
        words = words[1:]
    return printable("/".join(words))[:_NAME_LENGTH] or "operator"


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        candidate = name
        while candidate in seen:
            seen[name] += 1
            candidate = f"{name}#{seen[name]}"
        seen.setdefault(candidate, 1)
        unique.append(candidate)
    return unique
