"""Channels that belong together, on networks drawn at random: whatever goes, every shape must stay valid."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.training.channel_groups import (
    Channels,
    Group,
    Network,
    Role,
    Shape,
    Step,
    find_channels,
    kept_count,
    least_important,
)


@dataclass
class Drawing:
    """A network while it is drawn; tensors are numbered by their place in ``shapes``."""

    shapes: list[Shape]
    steps: list[Step] = field(default_factory=list)

    def add(self, layer: str, role: Role, inputs: list[int], shape: Shape, owns: bool = False, times: int = 1) -> None:
        self.shapes.append(shape)
        self.steps.append(Step(layer, role, tuple(inputs), (len(self.shapes) - 1,), owns, times))

    def network(self, outputs: list[int]) -> Network:
        return Network(tuple(self.steps), dict(enumerate(self.shapes)), (0,), tuple(outputs))


def _draw_step(draw: st.DrawFn, drawing: Drawing, index: int) -> None:  # noqa: C901 - one case a role
    tensor = draw(st.integers(0, len(drawing.shapes) - 1))
    shape = drawing.shapes[tensor]
    alike = [number for number, other in enumerate(drawing.shapes) if other == shape]
    role = draw(st.sampled_from(list(Role)))
    name = f"layer{index}"
    match role:
        case Role.MAKE:
            drawing.add(name, role, [tensor], (*shape[:-1], draw(st.integers(1, 9))), owns=True)
        case Role.READ | Role.FIX:
            drawing.add(name, role, [tensor], (*shape[:-1], draw(st.integers(1, 9))))
        case Role.CARRY:
            drawing.add(name, role, [tensor], shape, owns=draw(st.booleans()))
        case Role.REPEAT:
            drawing.add(name, role, [tensor], (*shape[:-1], 2 * shape[-1]), owns=True, times=2)
        case Role.TIE:
            drawing.add(name, role, [tensor, draw(st.sampled_from(alike))], shape)
        case Role.JOIN:
            drawing.add(name, role, [tensor, draw(st.sampled_from(alike))], (*shape[:-1], 2 * shape[-1]))
        case Role.RESHAPE:
            size = int(np.prod(shape))
            last = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
            drawing.add(name, role, [tensor], (size // last, last), owns=True)
        case Role.LOOK_UP:
            drawing.add(name, role, [0], (*drawing.shapes[0], draw(st.integers(1, 9))), owns=True)


def _call_again(draw: st.DrawFn, drawing: Drawing) -> None:
    """Call an earlier layer once more, on a tensor of the same shape."""
    if not drawing.steps:
        return
    step = draw(st.sampled_from(drawing.steps))
    wanted = drawing.shapes[step.inputs[0]]
    alike = [number for number, shape in enumerate(drawing.shapes) if shape == wanted]
    if len(step.inputs) == 1:
        again, shape = draw(st.sampled_from(alike)), drawing.shapes[step.outputs[0]]
        drawing.add(step.layer, step.role, [again], shape, step.owns, step.times)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    drawing = Drawing([(2, 3)])
    for index in range(draw(st.integers(1, 12))):
        if draw(st.integers(0, 4)) == 0:
            _call_again(draw, drawing)
        elif np.prod(drawing.shapes[-1]) < 500:
            _draw_step(draw, drawing, index)
    outputs = draw(st.lists(st.integers(0, len(drawing.shapes) - 1), min_size=1, max_size=2))
    return drawing.network(outputs)


def _elements(network: Network, channels: Channels, tensor: int, removed: frozenset[int]) -> list[int]:
    """Return the flat positions of a tensor's elements that stay."""
    shape = [int(size or 0) for size in network.shapes[tensor]]
    stays = np.zeros(shape[-1], bool)
    stays[channels.kept(tensor, removed)] = True
    return np.flatnonzero(np.broadcast_to(stays, shape)).tolist()


def _check_step(  # noqa: C901 - one case a role
    network: Network, channels: Channels, step: Step, removed: frozenset[int]
) -> None:
    kept = [channels.kept(tensor, removed).tolist() for tensor in (*step.inputs, *step.outputs)]
    widths = [network.shapes[tensor][-1] for tensor in (*step.inputs, *step.outputs)]
    match step.role:
        case Role.CARRY:
            assert kept[0] == kept[1]
        case Role.TIE:
            assert kept[0] == kept[1] == kept[2]
        case Role.JOIN:
            assert kept[2] == kept[0] + [widths[0] + position for position in kept[1]]
        case Role.REPEAT:
            assert kept[1] == [2 * position + half for position in kept[0] for half in (0, 1)]
        case Role.RESHAPE:
            inside, outside = (_elements(network, channels, t, removed) for t in (step.inputs[0], step.outputs[0]))
            assert inside == outside
        case Role.FIX:
            assert [len(positions) for positions in kept] == widths
        case Role.READ | Role.MEET:
            assert len(kept[-1]) == widths[-1]
        case Role.LOOK_UP:
            assert len(kept[0]) == widths[0]


@settings(deadline=None, max_examples=60)
@given(networks(), st.randoms(use_true_random=False))
def test_every_step_stays_valid_whichever_strands_go(network: Network, random: object) -> None:
    channels = find_channels(network)
    able = sorted(strand for group in channels.groups for strand in group.strands)
    removed = frozenset(random.sample(able, random.randint(0, len(able))))  # type: ignore[attr-defined]
    for step in network.steps:
        _check_step(network, channels, step, removed)
    for tensor in (*network.inputs, *network.outputs):
        assert len(channels.kept(tensor, removed)) == network.shapes[tensor][-1]


@settings(deadline=None, max_examples=60)
@given(networks(), st.randoms(use_true_random=False))
def test_calls_of_one_layer_keep_the_same_channels(network: Network, random: object) -> None:
    channels = find_channels(network)
    able = sorted(strand for group in channels.groups for strand in group.strands)
    removed = frozenset(random.sample(able, random.randint(0, len(able))))  # type: ignore[attr-defined]
    seen: dict[str, list[list[int]]] = {}
    for step in network.steps:
        if step.owns:
            kept = [channels.kept(tensor, removed).tolist() for tensor in (*step.inputs, *step.outputs)]
            assert seen.setdefault(step.layer, kept) == kept


@settings(deadline=None, max_examples=60)
@given(networks())
def test_no_strand_is_in_two_groups_and_each_layer_of_a_group_makes_it(network: Network) -> None:
    channels = find_channels(network)
    strands = [strand for group in channels.groups for strand in group.strands]
    assert len(strands) == len(set(strands))
    made = {step.layer: channels.strands[step.outputs[0]] for step in network.steps if step.role in _MAKERS}
    for group in channels.groups:
        for layer in group.layers:
            assert set(group.strands) <= set(made[layer].tolist())


_MAKERS = (Role.MAKE, Role.LOOK_UP)


def _residual(width: int) -> Network:
    drawing = Drawing([(8, 8, 3)])
    drawing.add("stem", Role.MAKE, [0], (8, 8, width), owns=True)
    drawing.add("inner", Role.MAKE, [1], (8, 8, 32), owns=True)
    drawing.add("outer", Role.MAKE, [2], (8, 8, width), owns=True)
    drawing.add("add", Role.TIE, [1, 3], (8, 8, width))
    drawing.add("flatten", Role.RESHAPE, [4], (64 * width,), owns=True)
    drawing.add("head", Role.MAKE, [5], (10,), owns=True)
    return drawing.network([6])


def test_a_residual_sum_makes_one_group_of_both_its_branches() -> None:
    groups = {group.layers: len(group.strands) for group in find_channels(_residual(16)).groups}
    assert groups == {("outer", "stem"): 16, ("inner",): 32}


def test_a_flattened_channel_takes_all_its_features_along() -> None:
    channels = find_channels(_residual(16))
    gone = int(channels.strands[1][5])
    kept = channels.kept(5, {gone})
    assert len(kept) == 64 * 15
    assert not set(kept % 16) & {5}


def test_one_channel_spread_over_many_stays() -> None:
    drawing = Drawing([(8, 3)])
    drawing.add("wide", Role.MAKE, [0], (8, 16), owns=True)
    drawing.add("gate", Role.MAKE, [0], (8, 1), owns=True)
    drawing.add("multiply", Role.TIE, [1, 2], (8, 16))
    drawing.add("head", Role.MAKE, [3], (8, 2), owns=True)
    assert [group.layers for group in find_channels(drawing.network([4])).groups] == [("wide",)]


def test_tables_looked_up_by_plain_ids_and_multiplied_shrink_together() -> None:
    drawing = Drawing([()])
    drawing.add("user", Role.LOOK_UP, [0], (16,), owns=True)
    drawing.add("item", Role.LOOK_UP, [0], (16,), owns=True)
    drawing.add("both", Role.TIE, [1, 2], (16,))
    drawing.add("score", Role.MAKE, [3], (1,), owns=True)
    groups = find_channels(drawing.network([4])).groups
    assert [(group.layers, len(group.strands)) for group in groups] == [(("item", "user"), 16)]


def test_a_layer_on_an_unknown_number_of_channels_fixes_what_it_touches() -> None:
    drawing = Drawing([(8, 3)])
    drawing.add("wide", Role.MAKE, [0], (8, 16), owns=True)
    drawing.add("odd", Role.TIE, [1], (8, None))
    drawing.add("head", Role.READ, [2], (8, 2))
    assert find_channels(drawing.network([3])).groups == ()


@pytest.mark.parametrize(
    ("channels", "ratio", "kept"),
    [(128, 0.5, 64), (64, 0.5, 32), (36, 0.5, 16), (20, 0.5, 12), (6, 0.5, 4), (4, 0.9, 4), (1, 0.5, 1), (32, 0.95, 4)],
)
def test_counts_that_stay_suit_the_kernels(channels: int, ratio: float, kept: int) -> None:
    assert kept_count(channels, ratio) == kept


@settings(deadline=None)
@given(st.integers(1, 2000), st.floats(0.01, 0.99))
def test_counts_that_stay_are_near_the_share_asked(channels: int, ratio: float) -> None:
    kept = kept_count(channels, ratio)
    assert min(channels, 4) <= kept <= channels
    assert abs(kept - channels * (1 - ratio)) <= 4 or kept == min(channels, 4)


def test_the_least_important_go_and_equals_by_number() -> None:
    group = Group(("a",), tuple(range(10, 18)))
    importance = {strand: float(strand % 2) for strand in group.strands}
    assert least_important(group, importance, 4) == {10, 12, 14, 16}
    assert least_important(group, {}, 4) == {10, 11, 12, 13}
