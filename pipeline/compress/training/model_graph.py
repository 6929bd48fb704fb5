"""A Keras 2 or Keras 3 model as a flat list of layer calls on numbered tensors; nested models are taken apart.

Both libraries record a call as a node of symbolic tensors; only the names of the fields differ.
"""

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.compress.training.channel_groups import Network, Shape, Step
from pipeline.compress.training.layer_roles import Behaviour, behaviour_of

_LIBRARIES = ("keras", "tf_keras")


@dataclass(frozen=True)
class Call:
    """One call of ``layer``, ``name`` in the flat model; ``arguments`` hold a ``Slot`` wherever a tensor goes."""

    layer: Any
    name: str
    behaviour: Behaviour
    arguments: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Slot:
    """The place of a tensor in the arguments of a call, or in the inputs or outputs of a model."""

    tensor: int


@dataclass(frozen=True)
class Input:
    """An input layer, and the name by which the model's input is known: in Keras 3 they may differ."""

    layer: Any
    name: str


@dataclass(frozen=True)
class ModelGraph:
    """``entries`` are the input layers by the number of their tensor; they are not among the calls.

    ``inputs`` and ``outputs`` are structures of slots.
    """

    library: Any
    name: str
    calls: tuple[Call, ...]
    shapes: Mapping[int, Shape]
    entries: Mapping[int, Input]
    inputs: Any
    outputs: Any
    output_names: Mapping[int, str]

    def in_order(self) -> Iterator[tuple[Call, frozenset[int]]]:
        """Give the calls in order, each with the tensors that nothing needs after it."""
        last = {tensor: index for index, call in enumerate(self.calls) for tensor in (*call.inputs, *call.outputs)}
        for index, call in enumerate(self.calls):
            yield call, frozenset(t for t in (*call.inputs, *call.outputs) if last[t] == index)

    def network(self) -> Network:
        """Return what the search for groups needs to know."""
        steps = tuple(
            Step(
                call.name,
                call.behaviour.role,
                call.inputs,
                call.outputs,
                owns=call.behaviour.cut is not None or call.behaviour.setting is not None,
                times=call.behaviour.times(call.layer),
            )
            for call in self.calls
        )
        return Network(steps, self.shapes, tuple(self.entries), tuple(slot.tensor for slot in flat(self.outputs)))


def read_model(model: Any) -> ModelGraph:
    """Read a built functional or sequential model of either Keras.

    Raises ValueError for a model whose graph is not known.
    """
    graph = _graph_of(model)
    if graph is None:
        raise ValueError(
            "its graph of layers is not known; build it as a functional or sequential model of plain layers"
        )
    reader = _Reader()
    entries = {reader.number(tensor): _entry(tensor) for tensor in flat(graph.inputs)}
    reader.walk(graph, "", None)
    names = dict(zip([reader.number(tensor) for tensor in flat(graph.output)], _output_names(graph), strict=True))
    return ModelGraph(
        importlib.import_module(_library_of(model)),
        model.name,
        tuple(reader.calls),
        reader.shapes,
        entries,
        reader.slots(graph.input),
        reader.slots(graph.output),
        names,
    )


def run(call: Call, layer: Any, values: dict[int, Any]) -> None:
    """Call ``layer`` in the place of the call's own on tensors by number, symbolic or not, and add its outputs."""
    arguments, options = fill(call.arguments, values)
    outputs = layer(*arguments, **options)
    values.update(zip(call.outputs, flat(outputs), strict=True))


def fill(structure: Any, values: Mapping[int, Any]) -> Any:
    """Put tensors into the slots of a structure."""
    if isinstance(structure, Slot):
        return values[structure.tensor]
    if isinstance(structure, dict):
        return {key: fill(item, values) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)):
        return _like(structure, [fill(item, values) for item in structure])
    return structure


def flat(structure: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples and dictionaries, in order."""
    return list(_leaves(structure))


def _leaves(structure: Any) -> Iterator[Any]:
    if isinstance(structure, dict):
        structure = list(structure.values())
    if not isinstance(structure, (list, tuple)):
        yield structure
        return
    for item in structure:
        yield from _leaves(item)


def _like(structure: Any, items: list[Any]) -> Any:
    return items if isinstance(structure, list) else tuple(items)


def _library_of(layer: Any) -> str:
    return str(type(layer).__module__).partition(".")[0]


def _graph_of(layer: Any) -> Any:
    """Return the functional graph of a plain model, None for a layer or for a model with code of its own."""
    if _library_of(layer) not in _LIBRARIES:
        return None
    graph = getattr(layer, "_functional", None) or layer
    return graph if getattr(graph, "_nodes_by_depth", None) else None


def _layer_of(tensor: Any) -> Any:
    history = tensor._keras_history
    return history.operation if hasattr(history, "operation") else history.layer


def _entry(tensor: Any) -> Input:
    return Input(_layer_of(tensor), str(tensor.name).partition(":")[0])


def _arguments(node: Any) -> tuple[Any, dict[str, Any]]:
    if hasattr(node, "arguments"):
        return node.arguments.args, dict(node.arguments.kwargs)
    return node.call_args, dict(node.call_kwargs)


def _output_names(graph: Any) -> list[str]:
    return [_layer_of(tensor).name for tensor in flat(graph.output)]


@dataclass
class _Reader:
    """Numbers tensors as it meets them; the tensors are kept, because their identity is their key."""

    calls: list[Call] = field(default_factory=list)
    shapes: dict[int, Shape] = field(default_factory=dict)
    _numbers: dict[int, int] = field(default_factory=dict)
    _tensors: list[Any] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)

    def number(self, tensor: Any) -> int:
        if id(tensor) not in self._numbers:
            self._numbers[id(tensor)] = len(self._tensors)
            self.shapes[len(self._tensors)] = tuple(tensor.shape)[1:]
            self._tensors.append(tensor)
        return self._numbers[id(tensor)]

    def slots(self, structure: Any) -> Any:
        """Replace the tensors of a structure by slots."""
        if hasattr(structure, "_keras_history"):
            return Slot(self.number(structure))
        if isinstance(structure, dict):
            return {key: self.slots(item) for key, item in structure.items()}
        if isinstance(structure, (list, tuple)):
            return _like(structure, [self.slots(item) for item in structure])
        return structure

    def walk(self, graph: Any, prefix: str, training: bool | None) -> None:
        """Add the calls of a graph whose inputs are numbered."""
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if not node.is_input:
                    self._add(node, prefix, training)

    def _add(self, node: Any, prefix: str, training: bool | None) -> None:
        layer = node.operation if hasattr(node, "operation") else node.layer
        positional, options = _arguments(node)
        graph = _graph_of(layer)
        if graph is not None and self._opens(graph, positional, options):
            self._take_apart(graph, node, f"{prefix}{layer.name}_", options.get("training", training))
            return
        if training is not None and "training" in inspect.signature(layer.call).parameters:
            options = {"training": training, **options}
        self._add_call(layer, prefix, node, (positional, options))

    def _add_call(self, layer: Any, prefix: str, node: Any, arguments: Any) -> None:
        leaves = flat(arguments)
        inputs = [leaf for leaf in leaves if hasattr(leaf, "_keras_history")]
        rank = len(inputs[0].shape) if inputs else 0
        self.calls.append(
            Call(
                layer,
                self._name(layer, prefix),
                behaviour_of(layer, rank, leaves),
                self.slots(arguments),
                tuple(self.number(tensor) for tensor in inputs),
                tuple(self.number(tensor) for tensor in flat(node.outputs)),
            )
        )

    def _name(self, layer: Any, prefix: str) -> str:
        """Return a name of the layer's own in the flat model: that of the first place where it was met."""
        if id(layer) not in self._names:
            name, taken = f"{prefix}{layer.name}", set(self._names.values())
            while name in taken:
                name = f"{name}_"
            self._names[id(layer)] = name
        return self._names[id(layer)]

    def _opens(self, graph: Any, positional: Any, options: Mapping[str, Any]) -> bool:
        """Tell whether a nested model is called with its inputs in order, and nothing else but ``training``."""
        told = {name: value for name, value in options.items() if value is not None}
        plain = told.keys() <= {"training"} and isinstance(told.get("training", False), bool)
        return plain and not isinstance(graph.input, dict) and len(flat(positional)) == len(flat(graph.input))

    def _take_apart(self, graph: Any, node: Any, prefix: str, training: bool | None) -> None:
        """Walk a nested model with its inputs standing for the tensors that it is called with.

        Its inner tensors get new numbers at each call.
        """
        outside = self._numbers
        values = flat(_arguments(node)[0])
        self._numbers = {id(inner): self.number(outer) for inner, outer in zip(flat(graph.input), values, strict=True)}
        self.walk(graph, prefix, training)
        inner_outputs = [self.number(tensor) for tensor in flat(graph.output)]
        self._numbers = outside
        for tensor, number in zip(flat(node.outputs), inner_outputs, strict=True):
            self._numbers[id(tensor)] = number
            self._tensors.append(tensor)  # kept alive with the others
