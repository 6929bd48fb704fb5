"""Structured pruning of models of both Kerases in one process; it equals the model whose removed channels are zero."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from random_models import Drawer, drawn_rows

from pipeline.compress.training.structured import shrink
from pipeline.core.tensors import Array

pytestmark = pytest.mark.slow

LIBRARIES = ("keras", "tf_keras")
TOLERANCE = 1e-5


@pytest.fixture(params=LIBRARIES, scope="session")
def keras(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def answers(model: Any, rows: Mapping[str, Array]) -> list[Array]:
    tensors = [rows[tensor.name.partition(":")[0]] for tensor in model.inputs]
    found = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    return [np.asarray(values) for values in (found if isinstance(found, (list, tuple)) else [found])]


def difference(ours: list[Array], theirs: list[Array]) -> float:
    """Return the largest difference as a share of the largest answer."""
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


def all_layers(model: Any) -> list[Any]:
    """Return the layers of a model and of the models in it."""
    found = []
    for layer in model.layers:
        found += all_layers(layer) if hasattr(layer, "layers") else [layer]
    return found


def silenced(layer: Any, gone: Array) -> None:
    """Set to zero all that a layer adds to its output channels ``gone``: by hand, not by the code under test."""
    weights = layer.get_weights()
    kind = type(layer).__name__
    if kind == "Conv2DTranspose":
        weights[0][:, :, gone, :] = 0
        weights[1][gone] = 0
    elif kind == "SeparableConv2D":
        weights[1][..., gone] = 0
        weights[2][gone] = 0
    elif kind == "DepthwiseConv2D":
        weights[1][gone] = 0
    elif kind in ("Dense", "Conv2D", "Embedding"):
        for values in weights:
            values[..., gone] = 0
    elif kind == "BatchNormalization":
        for values in weights[:2]:
            values[gone] = 0
    layer.set_weights(weights)


def without(model: Any, ratio: float, seed: int) -> tuple[Any, int]:
    """Silence random strands of a model in place; return the model rebuilt without them, and how many went."""
    from pipeline.compress.training.channel_groups import find_channels, least_important
    from pipeline.compress.training.model_graph import read_model
    from pipeline.compress.training.rebuilding import rebuild

    graph = read_model(model)
    channels = find_channels(graph.network())
    chance = np.random.default_rng(seed)
    importance = {strand: float(chance.random()) for group in channels.groups for strand in group.strands}
    removed = frozenset().union(*(least_important(group, importance, ratio) for group in channels.groups))
    rebuilt = rebuild(graph, channels, removed).model
    for call in graph.calls:
        if call.layer in all_layers(model) and call.layer.weights:
            strands = channels.strands[call.outputs[0]]
            silenced(call.layer, np.flatnonzero(np.isin(strands, list(removed))))
    return rebuilt, len(removed)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_equals_the_model_with_the_removed_channels_at_zero(keras: Any, seed: int) -> None:
    model, rows = Drawer(keras, seed).model(), drawn_rows(5, seed)
    whole = answers(model, rows)
    rebuilt, gone = without(model, 0.5, seed)
    assert gone > 0
    assert rebuilt.count_params() < model.count_params()
    assert difference(answers(rebuilt, rows), whole) > 100 * TOLERANCE
    assert difference(answers(rebuilt, rows), answers(model, rows)) < TOLERANCE


@pytest.mark.parametrize("seed", range(6, 9))
def test_channels_that_do_nothing_go_first_and_nothing_changes(keras: Any, seed: int) -> None:
    model, rows = Drawer(keras, seed).model(), drawn_rows(64, seed)
    rebuilt, _ = without(model, 0.5, seed)
    shrunk = shrink(model, 0.5, rows)
    assert shrunk.count_params() == rebuilt.count_params()
    assert difference(answers(shrunk, rows), answers(model, rows)) < 0.01
