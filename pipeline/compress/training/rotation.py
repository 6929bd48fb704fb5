"""Turns the channels between linear layers so that the first of them tell nearly all; nothing else changes.

What tables and linear layers make, and dense layers or convolutions read, may be mixed by any invertible matrix if the
readers undo it. The matrix chosen is that of truncated whitening (Wang et al., SVD-LLM, ICLR 2025; turning channels
before cutting them is SliceGPT's, Ashkboos et al., ICLR 2024): with the covariance C of the channels and the weights R
of their readers, the singular vectors of C^½ R become the channels, so that the readers lose least when the last go.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compress.training.channel_groups import Channels, Group, Ints, Role, find_channels
from pipeline.compress.training.channel_importance import features, input_values
from pipeline.compress.training.layer_roles import Floats, has_activation
from pipeline.compress.training.model_graph import Call, ModelGraph, read_model, run
from pipeline.compress.training.rebuilding import rebuild
from pipeline.core.tensors import Array

Matrix = npt.NDArray[np.float64]

_CHANNELS_MAX = 2048  # a decomposition takes their cube
_SAMPLES_MAX = 20_000
# Channels or directions weaker than this share of the strongest count as so strong, which keeps float32 exact.
_LEAST = 1e-4


@dataclass(frozen=True)
class Mixture:
    """A group that one linear layer makes: ``maker`` is its first call, ``readers`` one call of each reading layer."""

    group: Group
    maker: Call
    readers: tuple[Call, ...]


def rotated(graph: ModelGraph, channels: Channels, rows: Mapping[str, Array]) -> tuple[ModelGraph, Channels]:
    """Return the graph of a model that answers as before, its linear channels turned and the strongest first.

    ``rows`` tell how strong the channels are. The old model keeps its weights; without linear channels it is returned.
    """
    mixtures = list(find_mixtures(graph, channels))
    if not mixtures:
        return graph, channels
    spreads = _spreads(graph, channels, mixtures, rows)
    layers = rebuild(graph, channels, frozenset())
    for mixture in reversed(mixtures):  # a reader that is turned itself, before what it reads
        _turn(mixture, channels, layers.layers, spreads[mixture.maker.name])
    turned = read_model(layers.model)
    return turned, find_channels(turned.network())


def find_mixtures(graph: ModelGraph, channels: Channels) -> Iterator[Mixture]:
    """Find the groups whose channels may be mixed: nothing between their one maker and their readers is bent."""
    for group in channels.groups:
        calls = [call for call in graph.calls if _touches(call.inputs, group, channels)]
        makers = [call for call in graph.calls if call.name == group.layers[0]]
        readers = {call.name: call for call in calls if call.behaviour.role in (Role.MAKE, Role.READ)}
        is_linear = len(group.layers) == 1 and all(map(_mixes, makers)) and all(map(_lets_through, calls))
        tensors = {tensor for call in (*makers, *calls) for tensor in (*call.inputs, *call.outputs)}
        in_order = all(_tiles(tensor, group, channels) is not None for tensor in tensors)
        if is_linear and in_order and readers and len(group.strands) <= _CHANNELS_MAX:
            yield Mixture(group, makers[0], tuple(readers.values()))


def turn_of(covariance: Matrix, reads: Matrix) -> tuple[Matrix, Matrix]:
    """Return a matrix (channels, channels) that channels are multiplied by, and its inverse for their readers.

    ``covariance`` is (channels, channels), ``reads`` (channels, outputs). The first r new channels, with the first r
    rows of the inverse, give the readers' sums with the least squared error that r channels can.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, _LEAST * max(float(values[-1]), np.finfo(np.float64).tiny))
    root = (vectors * np.sqrt(values)) @ vectors.T
    inverse_root = (vectors / np.sqrt(values)) @ vectors.T
    directions, strengths, _ = np.linalg.svd(root @ reads, full_matrices=True)
    scales = np.full(len(covariance), 0.0)
    scales[: len(strengths)] = strengths
    scales = np.sqrt(np.maximum(scales, _LEAST * max(float(scales[0]), np.finfo(np.float64).tiny)))
    return inverse_root @ directions * scales, (directions / scales).T @ root


def _mixes(call: Call) -> bool:
    """Tell whether a layer's output channels are sums of their own that nothing bends."""
    return call.behaviour.linear and call.behaviour.role in (Role.MAKE, Role.LOOK_UP) and not has_activation(call.layer)


def _lets_through(call: Call) -> bool:
    """Tell whether a call undoes a mixture in its weights, or treats all channels alike."""
    if call.behaviour.role in (Role.MAKE, Role.READ):
        return call.behaviour.input_axis is not None
    is_carrier = call.behaviour.role in (Role.CARRY, Role.JOIN, Role.RESHAPE)
    return is_carrier and call.behaviour.linear and not has_activation(call.layer)


def _touches(tensors: tuple[int, ...], group: Group, channels: Channels) -> bool:
    known = (channels.strands[tensor] for tensor in tensors if tensor in channels.strands)
    return any(bool(np.isin(strands, group.strands).any()) for strands in known)


def _tiles(tensor: int, group: Group, channels: Channels) -> Ints | None:
    """Return where the group's strands lie in a tensor, (times, strands); None if not all together and in order."""
    strands = channels.strands.get(tensor, np.empty(0, np.int64))
    places = np.flatnonzero(np.isin(strands, group.strands))
    if len(places) % len(group.strands):
        return None
    tiles: Ints = places.reshape(-1, len(group.strands))
    return tiles if bool((strands[tiles] == np.array(group.strands)).all()) else None


def _spreads(
    graph: ModelGraph, channels: Channels, mixtures: list[Mixture], rows: Mapping[str, Array]
) -> dict[str, Matrix]:
    """Return the covariance of what each mixture's maker makes."""
    wanted = {mixture.maker.name: mixture for mixture in mixtures}
    found: dict[str, Matrix] = {}
    values = input_values(graph, rows)
    for call, done_with in graph.in_order():
        run(call, call.layer, values)
        if call.name in wanted and call.name not in found:
            tiles = _tiles_of(call.outputs[0], wanted[call.name], channels)
            found[call.name] = _covariance(call, features(values[call.outputs[0]]), tiles)
        for tensor in done_with:
            del values[tensor]
    return found


def _covariance(call: Call, made: Floats, tiles: Ints) -> Matrix:
    """Return the covariance of channels; that of a table is half of what rows look up, half of all it holds.

    Few rows do not look up all that a table holds.
    """
    spread = _spread(made, tiles)
    if call.behaviour.role is not Role.LOOK_UP:
        return spread
    return (spread + _spread(np.asarray(call.layer.get_weights()[0]), tiles)) / 2


def _spread(made: Floats, tiles: Ints) -> Matrix:
    samples = made[:: -(-len(made) // _SAMPLES_MAX)][:, tiles].reshape(-1, tiles.shape[1]).astype(np.float64)
    centred = samples - samples.mean(axis=0)
    covariance: Matrix = centred.T @ centred / len(samples)
    return covariance


def _tiles_of(tensor: int, mixture: Mixture, channels: Channels) -> Ints:
    tiles = _tiles(tensor, mixture.group, channels)
    assert tiles is not None  # a mixture's tensors were looked at  # noqa: S101
    return tiles


def _turn(mixture: Mixture, channels: Channels, layers: Mapping[str, Any], covariance: Matrix) -> None:
    """Change the weights of a mixture's maker and of its readers, in place."""
    reads = [_read(call, layers[call.name], mixture, channels) for call in mixture.readers]
    turn, back = turn_of(covariance, np.concatenate([_evened(read, covariance) for read in reads], axis=1))
    maker = layers[mixture.maker.name]
    made = _tiles_of(mixture.maker.outputs[0], mixture, channels)
    maker.set_weights([_turned(values, made, turn) for values in maker.get_weights()])
    for call in mixture.readers:
        _turn_back(call, layers[call.name], _tiles_of(call.inputs[0], mixture, channels), back)


def _read(call: Call, layer: Any, mixture: Mixture, channels: Channels) -> Matrix:
    """Return a reader's weights as (channels, all else)."""
    by_input = np.moveaxis(np.asarray(layer.get_weights()[0]), int(call.behaviour.input_axis or 0), 0)
    tiles = _tiles_of(call.inputs[0], mixture, channels)
    return np.swapaxes(by_input[tiles], 0, 1).reshape(tiles.shape[1], -1).astype(np.float64)


def _evened(read: Matrix, covariance: Matrix) -> Matrix:
    """Scale a reader's weights so that what it sums weighs as much as what any other does."""
    power = float(np.sum(read * (covariance @ read)))
    return read / np.sqrt(max(power, np.finfo(np.float64).tiny))


def _turned(values: Floats, tiles: Ints, turn: Matrix) -> Floats:
    """Mix the channels of the last axis."""
    new = np.array(values, dtype=np.float64)
    new[..., tiles] = new[..., tiles] @ turn
    return new.astype(values.dtype)


def _turn_back(call: Call, layer: Any, tiles: Ints, back: Matrix) -> None:
    kernel, *others = [np.asarray(values) for values in layer.get_weights()]
    axis = int(call.behaviour.input_axis or 0)
    by_input = np.moveaxis(kernel, axis, 0).astype(np.float64)
    for tile in tiles:
        by_input[tile] = np.tensordot(back, by_input[tile], 1)
    layer.set_weights([np.moveaxis(by_input, 0, axis).astype(kernel.dtype), *others])
