"""How much each strand of channels matters: how much its readers' sums move with it on real rows.

The score of a channel is the variance of its activation times the squared weights that read it, the fluctuation score
of FLAP (An et al., Fluctuation-based Adaptive Structured Pruning, AAAI 2024), as a share of the same sum over all
channels of that reader, so that layers of other scales weigh the same; the scores of a strand's members are added.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.compress.training.channel_groups import Channels, Role
from pipeline.compress.training.layer_roles import Floats
from pipeline.compress.training.model_graph import Call, ModelGraph, run
from pipeline.core.tensors import Array

_READERS = (Role.MAKE, Role.READ, Role.MEET)
_BYTES_A_TENSOR_MAX = 64 << 20
_TINY = 1e-30


def importance(graph: ModelGraph, channels: Channels, rows: Mapping[str, Array]) -> dict[int, float]:
    """Return the importance of every strand that some layer reads."""
    scores: Counter[int] = Counter()
    values = input_values(graph, rows)
    for call, done_with in graph.in_order():
        run(call, call.layer, values)
        if call.behaviour.role in _READERS and call.inputs[0] in channels.strands:
            shares = _shares(call, values)
            for strand, share in zip(channels.strands[call.inputs[0]].tolist(), shares.tolist(), strict=True):
                scores[strand] += share
        for tensor in done_with:
            del values[tensor]
    return dict(scores)


def input_values(graph: ModelGraph, rows: Mapping[str, Array]) -> dict[int, Any]:
    """Return as many rows of the inputs, by tensor number, as keep the largest tensor small."""
    widest = max(int(np.prod([size or 1 for size in shape])) for shape in graph.shapes.values())
    count = max(1, _BYTES_A_TENSOR_MAX // (4 * widest))
    return {number: np.asarray(rows[entry.name][:count]) for number, entry in graph.entries.items()}


def _shares(call: Call, values: Mapping[int, Any]) -> Floats:
    power = np.ones(1)
    for tensor in call.inputs:
        power = power * features(values[tensor]).var(axis=0)
    if call.behaviour.strength is not None:
        power = power * call.behaviour.strength([np.asarray(weights) for weights in call.layer.get_weights()])
    return power / max(float(power.sum()), _TINY)


def features(values: Any) -> Floats:
    """Return a tensor as (samples, channels)."""
    array = np.asarray(values, dtype=np.float32)
    return array.reshape(-1, array.shape[-1])
