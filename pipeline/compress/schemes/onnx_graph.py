"""Reading ``.onnx`` graphs: nodes with constant weights, and which of them can only be stored alike."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from pipeline.core.printable import printable

# Nodes that multiply by or look up constants, and which of their inputs those are.
WEIGHT_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "FusedMatMul": (0, 1),
    "Gather": (0,),
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}


@dataclass(frozen=True)
class NodeGroup:
    """Nodes that share weights, by name; ``weights`` are the names of their float initializers."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    weights: tuple[str, ...]
    count: int
    row: int  # how many numbers of a weight are summed up, or are one row of a table


def flatten_biases(model: onnx.ModelProto) -> None:
    """Give every Gemm's constant bias of shape (1, n) the shape (n,): it adds the same; no other is quantized."""
    constants = {item.name: item for item in model.graph.initializer}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        bias = constants.get(node.input[2]) if node.op_type == "Gemm" and len(node.input) > 2 else None
        if bias is not None and list(bias.dims[:1]) == [1] and len(bias.dims) == 2 and readers[bias.name] == 1:
            del bias.dims[0]


def node_groups(model: onnx.ModelProto) -> tuple[NodeGroup, ...]:
    """List what can be decided, in the order of the graph; node names must be unique."""
    counts = {item.name: elements(item) for item in model.graph.initializer if item.data_type == onnx.TensorProto.FLOAT}
    rows = {item.name: _row(item, model.graph.node) for item in model.graph.initializer if item.name in counts}
    leader: dict[str, str] = {}

    def find(weight: str) -> str:
        while leader.setdefault(weight, weight) != weight:
            weight = leader[weight]
        return weight

    found = [(node, weights) for node in model.graph.node if (weights := _weights(node, counts))]
    for _, weights in found:
        for weight in weights[1:]:
            leader[find(weight)] = find(weights[0])
    joined: dict[str, list[tuple[onnx.NodeProto, list[str]]]] = defaultdict(list)
    for node, weights in found:
        joined[find(weights[0])].append((node, weights))
    return tuple(_group(members, counts, rows) for members in joined.values())


def without_constant_inputs(model: onnx.ModelProto) -> None:
    """Take constants off the graph's inputs, in place: old files list each, and it would be asked for once it goes."""
    constants = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in constants]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)  # until then every constant had to be an input


# What quantizers add to a tensor is called by its name and one of these.
_ADDED = ("_scale", "_zero_point", "_quantized", "_float", "_half", "_rows", "_cast")


def free_added_names(model: onnx.ModelProto) -> None:
    """Rename inner tensors that bear a name which a quantizer gives, in place: ``w_scale`` beside ``w``.

    onnxruntime takes the one of two constants of a name for both, without a word.
    """
    graph = model.graph
    outside = {item.name for item in (*graph.input, *graph.output)}
    names = outside | {item.name for item in graph.initializer} | {name for node in graph.node for name in node.output}
    new = {}
    for name in sorted(names - outside):
        if any(name.endswith(end) and name.removesuffix(end) in names for end in _ADDED):
            new[name] = f"{name}#"
            while new[name] in names:
                new[name] += "#"
    _rename(graph, new)


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    for item in (*graph.initializer, *graph.value_info, *graph.output):
        item.name = new.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, new)


def initializers(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the graph's constants by name."""
    return {item.name: item for item in model.graph.initializer}


def _group(
    members: Sequence[tuple[onnx.NodeProto, list[str]]], counts: Mapping[str, int], rows: Mapping[str, int]
) -> NodeGroup:
    weights = tuple(dict.fromkeys(weight for _, names in members for weight in names))
    first = members[0][0]
    kind = "Gather" if any(node.op_type == "Gather" for node, _ in members) else first.op_type  # it can do the least
    count = sum(counts[weight] for weight in weights)
    names = tuple(node.name for node, _ in members)
    return NodeGroup(printable(first.name), kind, names, weights, count, rows[weights[0]])


def _row(weights: onnx.TensorProto, nodes: Sequence[onnx.NodeProto]) -> int:
    readers = [node for node in nodes if weights.name in node.input]
    if any(node.op_type == "Gather" and attribute(node, "axis", 0) for node in readers):
        return 1  # what it looks up are not rows
    reader = next(iter(readers), None)
    if reader is None or len(weights.dims) != 2:
        return int(weights.dims[-1]) if weights.dims else 1
    is_transposed = attribute(reader, "transB", 0)
    return int(weights.dims[0 if reader.op_type in ("Gemm", "MatMul") and not is_transposed else 1])


# Nodes without weights that stay in int8 between nodes in int8, so that no value is converted forth and back.
_FOLLOWERS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat"}
    | {"Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze"}
)


def followers(model: onnx.ModelProto, static: Collection[str]) -> list[str]:
    """Return the nodes without weights that read nothing but what ``static`` nodes, or followers of them, compute."""
    constants = {item.name for item in model.graph.initializer}
    computed: set[str] = set()
    found = []
    for node in model.graph.node:
        reads = {name for name in node.input if name and name not in constants}
        follows = node.op_type in _FOLLOWERS and bool(reads) and reads <= computed
        if follows:
            found.append(node.name)
        if follows or node.name in static:
            computed.update(node.output)
    return found


def _weights(node: onnx.NodeProto, counts: Mapping[str, int]) -> list[str]:
    places = WEIGHT_INPUTS.get(node.op_type, ())
    names = [node.input[place] for place in places if place < len(node.input)]
    return [name for name in names if counts.get(name, 0) > 1]


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return an integer attribute of a node."""
    return next((int(item.i) for item in node.attribute if item.name == name), default)


def elements(tensor: onnx.TensorProto) -> int:
    """Return the number of a tensor's elements."""
    count = 1
    for axis in tensor.dims:
        count *= axis
    return count


def name_nodes(model: onnx.ModelProto) -> None:
    """Give every node a unique name, in place, because quantizers and assignments tell nodes by it."""
    seen: set[str] = set()
    for node, name in zip(model.graph.node, _names(model.graph.node), strict=True):
        candidate, number = name, 1
        while candidate in seen:
            number += 1
            candidate = f"{name}#{number}"
        seen.add(candidate)
        node.name = candidate


def _names(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield node.name or next((name for name in node.output if name), node.op_type)


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put every node behind what it and the graphs inside it read, in place; raises ValueError where nothing can.

    Quantizers append nodes in any order. onnxruntime sorts for itself, but in 1.31 it ends the process, without an
    error, when a loop body reads a tensor of the outer graph that comes later.
    """
    graph = model.graph
    known = {item.name for item in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if reads(node) <= known]
        if not ready:
            missing = sorted(reads(waiting[0]) - known)[0]
            raise ValueError(f"node {waiting[0].name!r} reads {missing!r}, which nothing computes")
        for node in ready:
            ordered.append(node)
            known.update(node.output)
        taken = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in taken]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def reads(node: onnx.NodeProto) -> set[str]:
    """Return the outer tensors that a node reads, itself or in the graphs inside it."""
    found = set(node.input)
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = attribute.g
            own = {item.name for item in (*inner.input, *inner.initializer)}
            own.update(name for item in inner.node for name in item.output)
            found |= {name for item in inner.node for name in reads(item)} - own
            found |= {item.name for item in inner.output} - own
    return found - {""}
