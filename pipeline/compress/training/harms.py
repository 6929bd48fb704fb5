"""How far a model's outputs move when the weakest channels of a group fall silent: measured, group by group.

Scores of channels (:mod:`channel_importance`) rank those of one group well. Between groups they mislead: a layer early
on may lose a tenth of what it sums without any output moving, one beside the output may not.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.compress.training.channel_groups import Channels, Group, Role, kernel_step, ranked
from pipeline.compress.training.channel_importance import features, input_values
from pipeline.compress.training.layer_roles import Floats
from pipeline.compress.training.model_graph import Call, ModelGraph, flat, run
from pipeline.core.tensors import Array

_READERS = (Role.MAKE, Role.READ, Role.MEET)
_COUNTS_MOST = 16
_TINY = 1e-30


def counts_below(channels: int, least: int) -> Iterator[int]:
    """Give the counts that may stay of so many channels, falling, none below ``least``."""
    kept, multiple = channels, kernel_step(channels)
    while (fewer := (kept - 1) // multiple * multiple) >= max(least, 1):
        yield fewer
        kept = fewer


def harms(
    graph: ModelGraph,
    channels: Channels,
    groups: Sequence[Group],
    importance: Mapping[int, float],
    rows: Mapping[str, Array],
) -> list[list[float]]:
    """Return the harm of each channel of each group, weakest first by ``importance``, never falling.

    Harm is the squared error of the outputs on ``rows``, as a share of their variance, when channels are read as their
    mean. It is measured at counts that may stay, at most 16 of a group, and shared out evenly between two of them.
    """
    bench = _Bench(graph, channels, groups, input_values(graph, rows))
    return [_of_group(ranked(group, importance), bench) for group in groups]


def _of_group(weakest_first: Sequence[int], bench: "_Bench") -> list[float]:
    found: list[float] = []
    before = 0.0
    counts = list(counts_below(len(weakest_first), 1))
    for kept in counts[:: -(-len(counts) // _COUNTS_MOST) or 1]:
        silent = weakest_first[: len(weakest_first) - kept]
        error = bench.error(silent)
        found += [max([(error - before) / (len(silent) - len(found)), *found[-1:]])] * (len(silent) - len(found))
        before = error
    return found + [max(found, default=0.0)] * (len(weakest_first) - len(found))


class _Bench:
    """A model with its answers to some rows, and what they become when channels of the groups fall silent.

    What comes before the first reader of a group is computed once.
    """

    def __init__(
        self, graph: ModelGraph, channels: Channels, groups: Sequence[Group], inputs: Mapping[int, Any]
    ) -> None:
        self._channels = channels
        self._outputs = [slot.tensor for slot in flat(graph.outputs)]
        strands = [strand for group in groups for strand in group.strands]
        order = list(graph.in_order())
        reading = [self._reads(call, strands) for call, _ in order]
        start = reading.index(True) if True in reading else len(order)
        values = dict(inputs)
        self._run(order[:start], values, (), {})
        self._before, self._rest = dict(values), order[start:]
        self._means: dict[int, Floats] = {}
        for (call, done_with), is_reading in zip(self._rest, reading[start:], strict=True):
            if is_reading:
                self._means |= {tensor: features(values[tensor]).mean(axis=0) for tensor in call.inputs}
            self._run([(call, done_with)], values, (), {})
        self._answers = [features(values[tensor]) for tensor in self._outputs]

    def error(self, silent: Sequence[int]) -> float:
        """Return the squared error of the outputs, as a share of their variance, without the strands ``silent``."""
        values = dict(self._before)
        self._run(self._rest, values, silent, self._means)
        pairs = zip((features(values[tensor]) for tensor in self._outputs), self._answers, strict=True)
        return sum(float(np.square(now - then).mean() / max(float(then.var()), _TINY)) for now, then in pairs)

    def _run(
        self,
        calls: Sequence[tuple[Call, frozenset[int]]],
        values: dict[int, Any],
        silent: Sequence[int],
        means: Mapping[int, Floats],
    ) -> None:
        for call, done_with in calls:
            read = dict(values)
            if self._reads(call, silent):
                read |= {tensor: self._hushed(tensor, values[tensor], silent, means) for tensor in call.inputs}
            run(call, call.layer, read)
            values |= {tensor: read[tensor] for tensor in call.outputs}
            for tensor in done_with - set(self._outputs):
                del values[tensor]

    def _reads(self, call: Call, strands: Sequence[int]) -> bool:
        known = [self._channels.strands[tensor] for tensor in call.inputs if tensor in self._channels.strands]
        return call.behaviour.role in _READERS and any(bool(np.isin(one, strands).any()) for one in known)

    def _hushed(self, tensor: int, value: Any, silent: Sequence[int], means: Mapping[int, Floats]) -> Any:
        places = np.isin(self._channels.strands.get(tensor, np.empty(0, np.int64)), silent)
        return np.where(places, means[tensor], np.asarray(value)) if places.any() else value
