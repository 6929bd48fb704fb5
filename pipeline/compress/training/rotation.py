"""Turns the channels between linear layers so that the first of them tell nearly all; nothing else changes.

What tables and linear layers make, and dense layers or convolutions read, may be mixed by any invertible matrix if the
readers undo it. The matrix chosen is that of truncated whitening (Wang et al., SVD-LLM, ICLR 2025; turning channels
before cutting them is SliceGPT's, Ashkboos et al., ICLR 2024): with the covariance C of the channels and the weights R
of their readers, the singular vectors of C^½ R become the channels, so that the readers lose least when the last go.
Where two such layers meet in a product, :mod:`products` turns both.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.compress.training.channel_groups import Channels, Group, Ints, Role, find_channels
from pipeline.compress.training.channel_importance import features, input_values
from pipeline.compress.training.layer_roles import Floats
from pipeline.compress.training.model_graph import Call, ModelGraph, read_model, run
from pipeline.compress.training.products import Product, find_products, turn_product
from pipeline.compress.training.rebuilding import rebuild
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
from pipeline.core.tensors import Array

_SAMPLES_MAX = 20_000


@dataclass(frozen=True)
class Mixture:
    """A group that one linear layer makes: ``maker`` is its first call, ``readers`` one call of each reading layer."""

    group: Group
    maker: Call
    readers: tuple[Call, ...]


@dataclass(frozen=True)
class Rotated:
    """A model that answers as before; in the groups ``turned`` the first channels are the strongest."""

    graph: ModelGraph
    channels: Channels
    turned: frozenset[tuple[str, ...]]  # the layers that make each


def rotated(graph: ModelGraph, channels: Channels, rows: Mapping[str, Array]) -> Rotated:
    """Return the graph of a model that answers as before, its linear channels turned and the strongest first.

    ``rows`` tell how strong the channels are. The old model keeps its weights; without linear channels it is returned.
    """
    mixtures, products = list(find_mixtures(graph, channels)), list(find_products(graph, channels))
    if not mixtures and not products:
        return Rotated(graph, channels, frozenset())
    moments = _moments(graph, channels, mixtures, products, rows)
    layers = rebuild(graph, channels, frozenset())
    for mixture in reversed(mixtures):  # a reader that is turned itself, before what it reads
        _turn(mixture, channels, layers.layers, moments[mixture.maker.name])
    for product in products:
        turn_product(product, channels, layers.layers, moments)
    new = read_model(layers.model)
    groups = [*(one.group for one in mixtures), *(one.group for one in products)]
    return Rotated(new, find_channels(new.network()), frozenset(group.layers for group in groups))


def find_mixtures(graph: ModelGraph, channels: Channels) -> Iterator[Mixture]:
    """Find the groups whose channels may be mixed: nothing between their one maker and their readers is bent."""
    for group in channels.groups:
        calls = [call for call in graph.calls if touches(call.inputs, group, channels)]
        makers = [call for call in graph.calls if call.name == group.layers[0]]
        readers = {call.name: call for call in calls if call.behaviour.role in (Role.MAKE, Role.READ)}
        is_linear = len(group.layers) == 1 and all(map(mixes, makers)) and all(map(lets_through, calls))
        tensors = {tensor for call in (*makers, *calls) for tensor in (*call.inputs, *call.outputs)}
        in_order = all(tiles_of(tensor, group, channels) is not None for tensor in tensors)
        if is_linear and in_order and readers and len(group.strands) <= CHANNELS_MAX:
            yield Mixture(group, makers[0], tuple(readers.values()))


def turn_of(covariance: Matrix, reads: Matrix) -> tuple[Matrix, Matrix]:
    """Return a matrix (channels, channels) that channels are multiplied by, and its inverse for their readers.

    ``covariance`` is (channels, channels), ``reads`` (channels, outputs). The first r new channels, with the first r
    rows of the inverse, give the readers' sums with the least squared error that r channels can.
    """
    root, inverse_root = root_of(covariance)
    directions, strengths, _ = np.linalg.svd(root @ reads, full_matrices=True)
    scales = np.full(len(covariance), 0.0)
    scales[: len(strengths)] = strengths
    scales = np.sqrt(bounded(scales))
    return inverse_root @ directions * scales, (directions / scales).T @ root


def _moments(
    graph: ModelGraph,
    channels: Channels,
    mixtures: Sequence[Mixture],
    products: Sequence[Product],
    rows: Mapping[str, Array],
) -> dict[str, Matrix]:
    """Return the covariance of what each mixture's maker makes, and the second moments of a product's makers."""
    wanted = {mixture.maker.name: (mixture.group, True) for mixture in mixtures}
    wanted |= {maker.name: (product.group, False) for product in products for maker in product.makers}
    found: dict[str, Matrix] = {}
    values = input_values(graph, rows)
    for call, done_with in graph.in_order():
        run(call, call.layer, values)
        if call.name in wanted and call.name not in found:
            group, is_centred = wanted[call.name]
            tiles = known_tiles_of(call.outputs[0], group, channels)
            found[call.name] = _moments_of(call, features(values[call.outputs[0]]), tiles, is_centred)
        for tensor in done_with:
            del values[tensor]
    return found


def _moments_of(call: Call, made: Floats, tiles: Ints, is_centred: bool) -> Matrix:
    """Return the moments of channels; those of a table are half of what rows look up, half of all it holds.

    Few rows do not look up all that a table holds.
    """
    spread = _spread(made, tiles, is_centred)
    if call.behaviour.role is not Role.LOOK_UP:
        return spread
    return (spread + _spread(np.asarray(call.layer.get_weights()[0]), tiles, is_centred)) / 2


def _spread(made: Floats, tiles: Ints, is_centred: bool) -> Matrix:
    samples = made[:: -(-len(made) // _SAMPLES_MAX)][:, tiles].reshape(-1, tiles.shape[1]).astype(np.float64)
    around = samples - samples.mean(axis=0) if is_centred else samples
    moments: Matrix = around.T @ around / len(samples)
    return moments


def _turn(mixture: Mixture, channels: Channels, layers: Mapping[str, Any], covariance: Matrix) -> None:
    """Change the weights of a mixture's maker and of its readers, in place."""
    group = mixture.group
    reads = [_read(call, layers[call.name], group, channels) for call in mixture.readers]
    turn, back = turn_of(covariance, np.concatenate([_evened(read, covariance) for read in reads], axis=1))
    maker = layers[mixture.maker.name]
    made = known_tiles_of(mixture.maker.outputs[0], group, channels)
    maker.set_weights([turned(values, made, turn) for values in maker.get_weights()])
    for call in mixture.readers:
        _turn_back(call, layers[call.name], known_tiles_of(call.inputs[0], group, channels), back)


def _read(call: Call, layer: Any, group: Group, channels: Channels) -> Matrix:
    """Return a reader's weights as (channels, all else)."""
    by_input = np.moveaxis(np.asarray(layer.get_weights()[0]), int(call.behaviour.input_axis or 0), 0)
    tiles = known_tiles_of(call.inputs[0], group, channels)
    return np.swapaxes(by_input[tiles], 0, 1).reshape(tiles.shape[1], -1).astype(np.float64)


def _evened(read: Matrix, covariance: Matrix) -> Matrix:
    """Scale a reader's weights so that what it sums weighs as much as what any other does."""
    power = float(np.sum(read * (covariance @ read)))
    return read / np.sqrt(max(power, np.finfo(np.float64).tiny))


def _turn_back(call: Call, layer: Any, tiles: Ints, back: Matrix) -> None:
    kernel, *others = [np.asarray(values) for values in layer.get_weights()]
    axis = int(call.behaviour.input_axis or 0)
    by_input = np.moveaxis(kernel, axis, 0).astype(np.float64)
    for tile in tiles:
        by_input[tile] = np.tensordot(back, by_input[tile], 1)
    layer.set_weights([np.moveaxis(by_input, 0, axis).astype(kernel.dtype), *others])
