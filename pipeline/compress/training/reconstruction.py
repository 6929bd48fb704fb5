"""What the removed channels gave is made up for by those that stay, measured on real rows; no training.

Both models run side by side. Where a layer reads channels, the channels of the old model are predicted from those of
the new one by ridge regression, and the prediction is folded into the new layer's weights: the least-squares
reconstruction of He, Zhang & Sun (Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017), solved
channel by channel instead of tap by tap, and as there from the new model's own, already changed, activations. Batch
normalizations then get back the means and variances that they had been trained to expect.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.compress.training.channel_groups import Channels, Ints, Role
from pipeline.compress.training.channel_importance import features, input_values
from pipeline.compress.training.layer_roles import Cut, Floats
from pipeline.compress.training.model_graph import Call, ModelGraph, run
from pipeline.compress.training.rebuilding import Rebuilt
from pipeline.core.tensors import Array

_SAMPLES_MAX = 20_000
_VALUES_MAX = 8_000_000
_CHANNELS_MAX = 4096
_RIDGE = 1e-2
_TINY = 1e-12
_RATIO_MAX = 4.0


def reconstruct(
    graph: ModelGraph, channels: Channels, removed: frozenset[int], rebuilt: Rebuilt, rows: Mapping[str, Array]
) -> None:
    """Change the weights of a model rebuilt without the strands ``removed`` so that it answers ``rows`` as before."""
    old = input_values(graph, rows)
    new = dict(old)
    mended: set[str] = set()
    for call, done_with in graph.in_order():
        layer = rebuilt.layers[call.name]
        if call.name not in mended:
            mended.add(call.name)
            _mend(call, layer, channels, removed, old, new)
        run(call, call.layer, old)
        run(call, layer, new)
        for tensor in done_with:
            del old[tensor], new[tensor]


def _mend(
    call: Call,
    layer: Any,
    channels: Channels,
    removed: frozenset[int],
    old: Mapping[int, Any],
    new: Mapping[int, Any],
) -> None:
    if call.behaviour.role not in (Role.MAKE, Role.READ, Role.CARRY) or call.inputs[0] not in channels.strands:
        return
    kept_in, kept_out = (channels.kept(tensor, removed) for tensor in (call.inputs[0], call.outputs[0]))
    before, after = _samples(old[call.inputs[0]]), _samples(new[call.inputs[0]])
    if call.behaviour.input_axis is not None:
        _fold(call, layer, Cut(kept_in, kept_out), before, after)
    elif hasattr(layer, "moving_variance"):
        _restore_moments(layer, before[:, kept_in], after)


def _fold(call: Call, layer: Any, cut: Cut, before: Floats, after: Floats) -> None:
    """Let the layer read the old channels as far as the new ones tell them."""
    mixing, offset = predict(before, after, cut.inputs)
    axis = int(call.behaviour.input_axis or 0)
    whole = Cut(np.arange(before.shape[1]), cut.outputs)
    weights = [np.asarray(values) for values in call.layer.get_weights()]
    kernel, *others = call.behaviour.cut(call.layer, weights, whole) if call.behaviour.cut else weights
    by_input = np.moveaxis(kernel, axis, 0)
    mixed = by_input[cut.inputs] if mixing is None else by_input[cut.inputs] + np.tensordot(mixing, by_input, 1)
    if layer.use_bias:  # without one, the batch normalization that follows takes the mean
        taps = np.tensordot(offset, by_input, 1)
        shift = taps.reshape(-1, taps.shape[-1]).sum(axis=0) / call.behaviour.overlaps(call.layer)
        others[-1] = _shifted(others[-1], shift)
    layer.set_weights([values.astype(kernel.dtype) for values in (np.moveaxis(mixed, 0, axis), *others)])


def predict(before: Floats, after: Floats, kept: Ints) -> tuple[Floats | None, Floats]:
    """Return weights (new channels, old channels), or None for too many channels, and offsets (old channels,).

    ``before`` and ``after`` are (samples, channels); ``kept`` says which old channel each new one is. With the weights
    and offsets the new channels predict what the old ones differ by: a new model without a difference needs nothing.
    """
    missing = before.copy()
    missing[:, kept] -= after
    offset = missing.mean(axis=0)
    if after.shape[1] > _CHANNELS_MAX:
        return None, offset
    centre = after.mean(axis=0)
    centred = after - centre
    gram = centred.T @ centred / len(after)
    ridge = _RIDGE * max(1.0, len(gram) / len(after)) * max(float(np.trace(gram)) / len(gram), _TINY)
    mixing = np.linalg.solve(gram + ridge * np.eye(len(gram)), centred.T @ (missing - offset) / len(after))
    return mixing, offset - centre @ mixing


def _shifted(bias: Floats, shift: Floats) -> Floats:
    if bias.ndim == 1:
        return bias + shift
    return np.stack([bias[0] + shift, *bias[1:]])  # a GRU has one for its input and one for its state


def _restore_moments(layer: Any, before: Floats, after: Floats) -> None:
    *others, mean, variance = [np.asarray(values) for values in layer.get_weights()]
    mean = mean + after.mean(axis=0) - before.mean(axis=0)
    ratio = (after.var(axis=0) + _TINY) / (before.var(axis=0) + _TINY)
    variance = variance * np.clip(ratio, 1 / _RATIO_MAX, _RATIO_MAX)
    layer.set_weights([*others, mean.astype(np.float32), variance.astype(np.float32)])


def _samples(values: Any) -> Floats:
    found = features(values)
    most = max(1, min(_SAMPLES_MAX, _VALUES_MAX // found.shape[1]))
    return found[:: -(-len(found) // most)].astype(np.float64)
