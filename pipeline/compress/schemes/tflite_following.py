"""What operators without weights do in a file of several schemes.

Between two layers in static int8 lie ReLUs, pools, additions. Were they left in float, each would want a DEQUANTIZE
before it and a QUANTIZE behind it: slower than float throughout. So an operator without weights follows the static
scheme of whatever it reads, when everything that it reads is computed in that one scheme; and one that reads nothing
but the model's inputs follows the operators that read it, when they all agree. Everything else stays float.
"""

from collections.abc import Collection, Mapping
from typing import Any

from pipeline.compress.schemes.tflite_file import TfliteModel
from pipeline.core.names import Scheme

Place = tuple[int, int]


def followed(model: TfliteModel, static: Mapping[Place, Scheme], weighted: Collection[Place]) -> dict[Place, Scheme]:
    """Return the scheme of each operator without weights that follows one; ``static`` gives the weighted ones'."""
    found: dict[Place, Scheme] = {}
    for graph_index, graph in enumerate(model.subgraphs):
        decided = {place[1]: scheme for place, scheme in static.items() if place[0] == graph_index}
        own = {place[1] for place in weighted if place[0] == graph_index}
        after = _forward(graph, decided, own)
        before = _backward(graph, {**decided, **after}, own)
        found.update({(graph_index, position): scheme for position, scheme in {**after, **before}.items()})
    return found


def _forward(graph: Any, decided: Mapping[int, Scheme], own: Collection[int]) -> dict[int, Scheme]:
    producers = _producers(graph)
    after: dict[int, Scheme] = {}
    for position, operator in enumerate(graph.operators):
        sources = [producers[index] for index in operator.inputs if index in producers]
        schemes = {{**decided, **after}.get(source) for source in sources}
        scheme = schemes.pop() if len(schemes) == 1 else None
        if scheme is not None and position not in own and not _reads_inputs(graph, operator):
            after[position] = scheme
    return after


def _backward(graph: Any, decided: Mapping[int, Scheme], own: Collection[int]) -> dict[int, Scheme]:
    producers = _producers(graph)
    before: dict[int, Scheme] = {}
    for position in reversed(range(len(graph.operators))):
        operator = graph.operators[position]
        reads_inputs_alone = not any(index in producers for index in operator.inputs)
        if position in own or position in decided or not reads_inputs_alone:
            continue
        readers = [at for at, other in enumerate(graph.operators) if set(other.inputs) & set(operator.outputs)]
        schemes = {decided.get(reader) for reader in readers}
        scheme = schemes.pop() if len(schemes) == 1 else None
        if scheme is not None:
            before[position] = scheme
    return before


def _producers(graph: Any) -> dict[int, int]:
    return {int(index): position for position, operator in enumerate(graph.operators) for index in operator.outputs}


def _reads_inputs(graph: Any, operator: Any) -> bool:
    return bool({int(index) for index in operator.inputs} & {int(index) for index in graph.inputs})
