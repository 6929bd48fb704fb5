"""Which channels of a network go together when one goes: arithmetic on numbered channels, no TensorFlow.

Every step that makes channels (a dense layer, a convolution, an embedding) gets a new number for each of them. The
numbers flow along the graph: a concatenation joins them, a flattening repeats them, an elementwise sum ties those that
meet. Channels that are tied form a *strand*; a strand is removed as a whole or not at all, which keeps every shape of
the network valid. The channels are those of a tensor's last axis.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Shape = tuple[int | None, ...]

_KEPT_LEAST = 4
_KERNEL_STEP = 4
_KERNEL_STEP_WIDE = 8
_WIDE = 32


class Role(StrEnum):
    """What a step does with channels."""

    MAKE = "make"  # each new channel is computed from all input channels
    LOOK_UP = "look up"  # new channels; the inputs are ids
    READ = "read"  # reads any input channels; its own outputs are fixed
    CARRY = "carry"  # channel for channel
    REPEAT = "repeat"  # every channel becomes `times` neighbours
    TIE = "tie"  # elementwise over its inputs, with broadcasting
    JOIN = "join"  # concatenation along the channels
    RESHAPE = "reshape"  # same elements, same order, other axes
    MEET = "meet"  # dot product along the channels
    FIX = "fix"  # anything else: what it touches stays


_OF_ONE_INPUT = (Role.MAKE, Role.READ, Role.CARRY, Role.REPEAT, Role.RESHAPE)


@dataclass(frozen=True)
class Step:
    """One call of one layer on numbered tensors; calls of a layer that ``owns`` sizes share its channels."""

    layer: str
    role: Role
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    owns: bool = False
    times: int = 1


@dataclass(frozen=True)
class Network:
    """Steps in the order of execution; ``shapes`` are of tensors without their axis of rows."""

    steps: tuple[Step, ...]
    shapes: Mapping[int, Shape]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Strands that the same layers make; a share of them may go."""

    layers: tuple[str, ...]
    strands: tuple[int, ...]


@dataclass(frozen=True)
class Channels:
    """``strands`` gives, for each tensor, the strand of each of its channels."""

    strands: Mapping[int, Ints]
    groups: tuple[Group, ...]

    def kept(self, tensor: int, removed: Collection[int]) -> Ints:
        """Return the positions, in order, of the tensor's channels that stay when the strands ``removed`` go."""
        gone = np.fromiter(removed, np.int64, len(removed))
        return np.flatnonzero(~np.isin(self.strands[tensor], gone))


def find_channels(network: Network) -> Channels:
    """Find the channels of every tensor and the groups whose channels may be removed.

    Tensors without a known last axis have no channels; steps that touch one fix all that they touch. What a network
    takes in and gives out stays whole.
    """
    numbering = _Numbering(network.shapes)
    for tensor in network.inputs:
        numbering.fix_new(tensor)
    for step in network.steps:
        numbering.follow(step)
    for tensor in network.outputs:
        numbering.fix(tensor)
    return numbering.result()


def kept_count(channels: int, channels_ratio: float) -> int:
    """Return how many of ``channels`` stay when the share ``channels_ratio`` goes.

    The nearest multiple of 4 (of 8 from 32 channels on), because kernels compute so many at once; at least 4.
    """
    step = kernel_step(channels)
    nearest = math.floor(channels * (1 - channels_ratio) / step + 0.5) * step
    return min(channels, max(_KEPT_LEAST, nearest))


def kernel_step(channels: int) -> int:
    """Return of what a count of channels that stay of so many must be a multiple."""
    return _KERNEL_STEP_WIDE if channels >= _WIDE else _KERNEL_STEP


def least_important(group: Group, importance: Mapping[int, float], kept: int) -> frozenset[int]:
    """Return the strands of a group that go when ``kept`` stay: those of least ``importance``, ties by number."""
    return frozenset(ranked(group, importance)[: len(group.strands) - kept])


def ranked(group: Group, importance: Mapping[int, float]) -> list[int]:
    """Return the strands of a group, the least important first, ties by number."""
    return sorted(group.strands, key=lambda strand: (importance.get(strand, 0.0), strand))


class _Numbering:
    """Channel numbers by tensor while the graph is walked; ``_pairs`` are the numbers tied so far."""

    def __init__(self, shapes: Mapping[int, Shape]) -> None:
        self._shapes = shapes
        self._numbers: dict[int, Ints] = {}
        self._makers: list[str] = []  # of each channel, "" for those that no layer makes
        self._made: dict[str, Ints] = {}
        self._first_read: dict[str, tuple[Ints, ...]] = {}
        self._pairs: list[Ints] = []
        self._fixed: list[Ints] = []

    def follow(self, step: Step) -> None:
        if not self._follows_role(step):
            for tensor in step.inputs:
                self.fix(tensor)
            for tensor in step.outputs:
                self.fix_new(tensor)
            if step.layer in self._made:
                self._fixed.append(self._made[step.layer])

    def _follows_role(self, step: Step) -> bool:
        """Give the step's outputs their numbers; return False when its role does not fit its tensors."""
        if step.role is Role.LOOK_UP:
            return self._looks_up(step)
        inputs = [self._numbers[tensor] for tensor in step.inputs if tensor in self._numbers]
        widths = [self._width(tensor) for tensor in step.outputs]
        if len(inputs) != len(step.inputs) or not inputs or None in widths or not self._shares(step, inputs):
            return False
        if step.role in _OF_ONE_INPUT and len(inputs) != 1:
            return False
        if step.role is Role.READ:
            for tensor in step.outputs:
                self.fix_new(tensor)
            return True
        numbers = self._outputs(step, inputs) if len(step.outputs) == 1 else None
        if numbers is None or len(numbers) != widths[0]:
            return False
        self._numbers[step.outputs[0]] = numbers
        return True

    def _looks_up(self, step: Step) -> bool:
        """Give a lookup's outputs new numbers; its inputs are ids, which may have no axis but that of the rows."""
        for tensor in step.inputs:
            self.fix(tensor)
        if len(step.outputs) == 1 and self._width(step.outputs[0]) is not None:
            self._numbers[step.outputs[0]] = self._make(step)
            return True
        return False

    def _shares(self, step: Step, inputs: list[Ints]) -> bool:
        """Tie the inputs of all calls of one layer that owns sizes; False when they do not have the same widths."""
        if not step.owns:
            return True
        first = self._first_read.setdefault(step.layer, tuple(inputs))
        if [len(numbers) for numbers in first] != [len(numbers) for numbers in inputs]:
            for numbers in first:
                self._fixed.append(numbers)
            return False
        for ours, theirs in zip(inputs, first, strict=True):
            self._tie(ours, theirs)
        return True

    def _outputs(self, step: Step, inputs: list[Ints]) -> Ints | None:
        match step.role:
            case Role.MAKE:
                return self._make(step)
            case Role.CARRY:
                return inputs[0]
            case Role.REPEAT:
                return np.repeat(inputs[0], step.times)
            case Role.JOIN:
                return np.concatenate(inputs)
        return self._tied_outputs(step, inputs)

    def _tied_outputs(self, step: Step, inputs: list[Ints]) -> Ints | None:
        match step.role:
            case Role.TIE:
                return self._elementwise(inputs)
            case Role.MEET:
                return self._meet(step, inputs)
            case Role.RESHAPE:
                return self._reshape(step, inputs[0])
        return None

    def _make(self, step: Step) -> Ints:
        if step.layer not in self._made:
            self._made[step.layer] = self._new(self._width(step.outputs[0]) or 0, step.layer)
        return self._made[step.layer]

    def _elementwise(self, inputs: list[Ints]) -> Ints | None:
        width = max(len(numbers) for numbers in inputs)
        full = [numbers for numbers in inputs if len(numbers) == width]
        narrow = [numbers for numbers in inputs if len(numbers) != width]
        if any(len(numbers) != 1 for numbers in narrow):
            return None
        self._fixed.extend(narrow)  # one channel spread over all others
        for numbers in full[1:]:
            self._tie(full[0], numbers)
        return full[0]

    def _meet(self, step: Step, inputs: list[Ints]) -> Ints | None:
        if len({len(numbers) for numbers in inputs}) != 1:
            return None
        for numbers in inputs[1:]:
            self._tie(inputs[0], numbers)
        self.fix_new(step.outputs[0])
        return self._numbers[step.outputs[0]]

    def _reshape(self, step: Step, numbers: Ints) -> Ints | None:
        source, target = self._shapes[step.inputs[0]], self._shapes[step.outputs[0]]
        if None in source or None in target:
            return None
        sizes = [int(size or 0) for size in source]
        rows = np.broadcast_to(numbers, sizes).reshape(-1, int(target[-1] or 0))
        for row in np.unique(rows, axis=0):
            self._tie(rows[0], row)
        return rows[0]

    def _tie(self, left: Ints, right: Ints) -> None:
        if left is not right:
            self._pairs.append(np.stack([left, right]))

    def _new(self, count: int, maker: str) -> Ints:
        start = len(self._makers)
        self._makers.extend([maker] * count)
        return np.arange(start, start + count)

    def _width(self, tensor: int) -> int | None:
        shape = self._shapes[tensor]
        return shape[-1] if shape else None

    def fix_new(self, tensor: int) -> None:
        """Give new numbers to a tensor that must stay whole."""
        width = self._width(tensor)
        if width is not None:
            self._numbers[tensor] = self._new(width, "")
            self.fix(tensor)

    def fix(self, tensor: int) -> None:
        """Keep the channels of a tensor whole, if it has any."""
        if tensor in self._numbers:
            self._fixed.append(self._numbers[tensor])

    def result(self) -> Channels:
        """Return strands and groups; a strand with one fixed channel is in no group."""
        strand_of = _connected(len(self._makers), self._pairs)
        fixed = set(strand_of[np.concatenate([np.empty(0, np.int64), *self._fixed])].tolist())
        makers: dict[int, set[str]] = {}
        for strand, maker in zip(strand_of.tolist(), self._makers, strict=True):
            if strand not in fixed:
                makers.setdefault(strand, set()).add(maker)
        grouped: dict[tuple[str, ...], list[int]] = {}
        for strand, layers in sorted(makers.items()):
            grouped.setdefault(tuple(sorted(layers)), []).append(strand)
        groups = tuple(Group(layers, tuple(strands)) for layers, strands in grouped.items())
        return Channels({tensor: strand_of[numbers] for tensor, numbers in self._numbers.items()}, groups)


def _connected(count: int, pairs: list[Ints]) -> Ints:
    """Return for each of ``count`` numbers the least number that it is tied to, directly or through others."""
    root = np.arange(count)
    left, right = np.concatenate([np.empty((2, 0), np.int64), *pairs], axis=1)
    while True:
        least = np.minimum(root[left], root[right])
        before: npt.NDArray[Any] = root.copy()
        for ends in (root[left], root[right]):
            np.minimum.at(root, ends, least)
        root = root[root]
        if np.array_equal(root, before):
            return root
