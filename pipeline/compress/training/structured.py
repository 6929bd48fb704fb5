"""Structured pruning: whole channels go, the layers get smaller, and any engine is faster for it."""

from collections.abc import Mapping
from typing import Any

from pipeline.compress.training.channel_groups import Channels, find_channels, kept_count, least_important
from pipeline.compress.training.channel_importance import importance
from pipeline.compress.training.model_graph import ModelGraph, read_model
from pipeline.compress.training.rebuilding import rebuild
from pipeline.core.tensors import Array


def shrink(model: Any, channels_ratio: float, rows: Mapping[str, Array]) -> Any:
    """Return a new, uncompiled model of the same library without the share ``channels_ratio`` (0..1) of its channels.

    The share is taken from every group of channels that can go together. ``rows`` are inputs by name (some hundred rows
    are enough) on which channels are ranked. Inputs and outputs keep their names, shapes and dtypes. Raises ValueError
    when nothing can shrink.
    """
    if not 0 < channels_ratio < 1:
        raise ValueError(f"the share of channels to remove must lie between 0 and 1, and {channels_ratio:g} does not")
    graph = read_model(model)
    channels = find_channels(graph.network())
    removed = _removed(graph, channels, channels_ratio, rows)
    return rebuild(graph, channels, removed).model


def _removed(graph: ModelGraph, channels: Channels, channels_ratio: float, rows: Mapping[str, Array]) -> frozenset[int]:
    able = [group for group in channels.groups if kept_count(len(group.strands), channels_ratio) < len(group.strands)]
    if not able:
        raise ValueError(
            "none of its layers has channels that can be removed: at least 4 stay, and those that feed its outputs or "
            "layers of unknown kind stay all"
        )
    scores = importance(graph, channels, rows)
    return frozenset().union(*(least_important(group, scores, channels_ratio) for group in able))
