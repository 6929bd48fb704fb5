"""Turns the channels of two linear layers that meet in a product, so that the first of them tell nearly all of it.

Where products of channels are only summed to one number, as the score of a user's and an item's table is in matrix
factorization, the sum is a bilinear form a·diag(w)·b, and any matrix may be put between a and b if the other side
undoes it. The one chosen comes from the singular value decomposition of A^½ diag(w) B^½, with A and B the second
moments of the channels: the first r new channels give the form with the least squared error that r channels can
(Eckart and Young), and both sides come out equally strong, which suits tables that are rounded with one step.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.compress.training.channel_groups import Channels, Group, Ints, Role
from pipeline.compress.training.model_graph import Call, ModelGraph
from pipeline.compress.training.turning import (
    CHANNELS_MAX,
    Matrix,
    bounded,
    known_tiles_of,
    lets_through,
    mixes,
    root_of,
    tiles_of,
    touches,
    turned,
)


@dataclass(frozen=True)
class Product:
    """A group that two linear layers make, ``makers`` by their calls; ``reader`` sums the products with weights.

    Without a ``reader`` they are summed as they are.
    """

    group: Group
    makers: tuple[Call, Call]
    reader: Call | None


def find_products(graph: ModelGraph, channels: Channels) -> Iterator[Product]:
    """Find the groups whose two makers meet in one product and nowhere else, summed to one number."""
    for group in channels.groups:
        makers = [call for call in graph.calls if call.name in group.layers]
        calls = [call for call in graph.calls if touches(call.inputs, group, channels)]
        meetings = [call for call in calls if _multiplies(call)]
        others = [call for call in calls if call not in meetings]
        readers = [call for call in others if call.behaviour.role in (Role.MAKE, Role.READ)]
        if len(group.layers) != 2 or len(makers) != 2 or len(meetings) != 1 or len(group.strands) > CHANNELS_MAX:
            continue
        is_linear = all(map(mixes, makers)) and all(map(lets_through, others))
        is_whole = all(_is_whole(tensor, group, channels) for call in calls for tensor in (*call.inputs, *call.outputs))
        if is_linear and is_whole and _joins(graph, meetings[0], makers) and _is_summed(graph, meetings[0], readers):
            yield Product(group, (makers[0], makers[1]), readers[0] if readers else None)


def turns_of(left: Matrix, right: Matrix, weights: Matrix) -> tuple[Matrix, Matrix]:
    """Return what two layers' channels are multiplied by, so that their plain products sum to the weighted ones before.

    ``left`` and ``right`` are second moments (channels, channels), ``weights`` (channels,) those of the products.
    """
    (left_root, left_back), (right_root, right_back) = root_of(left), root_of(right)
    ours, strengths, theirs = np.linalg.svd(left_root @ np.diag(weights) @ right_root)
    scales = np.sqrt(bounded(strengths))
    return left_back @ ours * scales, right_back @ theirs.T * (strengths / scales)


def turn_product(
    product: Product, channels: Channels, layers: Mapping[str, Any], moments: Mapping[str, Matrix]
) -> None:
    """Change the weights of a product's makers and of its reader, in place; ``moments`` are those of the makers."""
    weights = _weights(product, channels, layers)
    level = float(np.sqrt(np.mean(np.square(weights)))) or 1.0
    left, right = product.makers
    turns = turns_of(moments[left.name], moments[right.name], weights / level)
    for maker, turn in zip(product.makers, turns, strict=True):
        layer, places = layers[maker.name], known_tiles_of(maker.outputs[0], product.group, channels)
        layer.set_weights([turned(values, places, turn) for values in layer.get_weights()])
    if product.reader is not None:
        layer = layers[product.reader.name]
        kernel, *others = [np.array(values) for values in layer.get_weights()]
        np.moveaxis(kernel, _axis(product.reader), 0)[_places(product.reader, product.group, channels)] = level
        layer.set_weights([kernel, *others])


def _weights(product: Product, channels: Channels, layers: Mapping[str, Any]) -> Matrix:
    """Return what each product of channels is summed with."""
    if product.reader is None:
        return np.ones(len(product.group.strands))
    kernel = np.asarray(layers[product.reader.name].get_weights()[0], np.float64)
    by_input: Matrix = np.moveaxis(kernel, _axis(product.reader), 0).reshape(-1)
    return by_input[_places(product.reader, product.group, channels)]


def _axis(reader: Call) -> int:
    return int(reader.behaviour.input_axis or 0)


def _places(reader: Call, group: Group, channels: Channels) -> Ints:
    places: Ints = known_tiles_of(reader.inputs[0], group, channels)[0]
    return places


def _multiplies(call: Call) -> bool:
    """Tell whether a call multiplies two tensors channel by channel."""
    is_product = call.behaviour.role is Role.TIE and type(call.layer).__name__ == "Multiply"
    return (is_product or call.behaviour.role is Role.MEET) and len(set(call.inputs)) == 2


def _is_whole(tensor: int, group: Group, channels: Channels) -> bool:
    """Tell whether a tensor holds all strands of the group once and in order, or none of them."""
    tiles = tiles_of(tensor, group, channels)
    return tiles is not None and len(tiles) <= 1


def _joins(graph: ModelGraph, meeting: Call, makers: list[Call]) -> bool:
    """Tell whether each input of the product comes from another of the two makers."""
    names = {maker.name for maker in makers}
    from_makers = [_makers_before(graph, tensor, names) for tensor in meeting.inputs]
    return len(meeting.inputs) == 2 and sorted(map(sorted, from_makers)) == sorted([name] for name in names)


def _makers_before(graph: ModelGraph, tensor: int, names: set[str]) -> set[str]:
    """Return which of the named layers a tensor comes from, through whatever lies between."""
    call = next((call for call in graph.calls if tensor in call.outputs), None)
    if call is None or call.name in names:
        return set() if call is None else {call.name}
    return set().union(*(_makers_before(graph, one, names) for one in call.inputs))


def _is_summed(graph: ModelGraph, meeting: Call, readers: list[Call]) -> bool:
    """Tell whether the products are summed at once, or read by one layer, called once, that gives one number."""
    if meeting.behaviour.role is Role.MEET or len(readers) != 1:
        return meeting.behaviour.role is Role.MEET and not readers
    kernel = readers[0].layer.get_weights()[0]
    is_called_once = sum(call.name == readers[0].name for call in graph.calls) == 1
    return is_called_once and bool(kernel.size == kernel.shape[_axis(readers[0])])
