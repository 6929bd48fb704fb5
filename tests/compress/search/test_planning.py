"""The plan against a second solver that tries everything."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.search.planning import (
    Decision,
    Interaction,
    Option,
    Predicted,
    caps,
    plan_front,
    predict,
    solve,
    undominated,
)

COSTS = st.integers(-5000, 500)
DIVERGENCES = st.one_of(st.just(0.0), st.floats(1e-6, 2.0))


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[Decision, ...], tuple[Interaction, ...]]:
    decisions = []
    for index in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 4))
        others = [Option(f"s{n}", draw(COSTS), draw(DIVERGENCES)) for n in range(1, count)]
        decisions.append(Decision(f"g{index}", (Option("f32", 0, 0.0), *others)))
    keys = [(decision.group, option.name) for decision in decisions for option in decision.options]
    pairs = [(one, other) for one, other in itertools.combinations(keys, 2) if one[0] != other[0]]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=3, unique=True)) if pairs else []
    interactions = tuple(
        Interaction(one, other, draw(st.integers(-800, 800)), draw(st.floats(-0.2, 0.5))) for one, other in chosen
    )
    return tuple(decisions), interactions


def every_plan(
    decisions: tuple[Decision, ...], interactions: tuple[Interaction, ...] = ()
) -> list[tuple[Predicted, float]]:
    """Return each plan with its divergence, before it is kept at 0 or above, by trying all."""
    plans = []
    for options in itertools.product(*(decision.options for decision in decisions)):
        plan = {decision.group: option.name for decision, option in zip(decisions, options, strict=True)}
        both = [pair for pair in interactions if plan[pair.first[0]] == pair.first[1]]
        both = [pair for pair in both if plan[pair.second[0]] == pair.second[1]]
        raw = sum(option.divergence for option in options) + sum(pair.divergence for pair in both)
        plans.append((predict(decisions, plan, interactions), raw))
    return plans


@given(problems(), st.floats(1e-5, 4.0))
@settings(max_examples=60, deadline=None)
def test_no_plan_within_the_cap_is_cheaper_than_the_solvers(
    problem: tuple[tuple[Decision, ...], tuple[Interaction, ...]], cap: float
) -> None:
    decisions, interactions = problem
    allowed = tuple(Decision(d.group, tuple(o for o in d.options if o.divergence <= cap)) for d in decisions)
    found = solve(decisions, cap, interactions)
    fits = [plan for plan, raw in every_plan(allowed, interactions) if raw <= cap * (1 - 1e-5)]
    loosely = [plan for plan, raw in every_plan(allowed, interactions) if raw <= cap * (1 + 1e-5)]
    if found is None:
        assert not fits
        return
    assert found.divergence <= cap * (1 + 1e-5)
    assert found.cost <= min((plan.cost for plan in fits), default=float("inf"))
    assert found.cost >= min(plan.cost for plan in loosely)


@given(problems())
@settings(max_examples=30, deadline=None)
def test_front_runs_from_harmless_to_cheapest_and_nothing_on_it_is_beaten(
    problem: tuple[tuple[Decision, ...], tuple[Interaction, ...]],
) -> None:
    decisions, _ = problem
    front = plan_front(decisions)
    assert [plan.divergence for plan in front] == sorted(plan.divergence for plan in front)
    assert all(safe.cost > cheap.cost for safe, cheap in itertools.pairwise(front))
    everything = [plan for plan, _ in every_plan(decisions)]
    assert front[-1].cost == min(plan.cost for plan in everything)
    assert front[0].cost == min(plan.cost for plan in everything if plan.divergence == 0)
    for plan in front:
        better = [other for other in everything if other.divergence <= plan.divergence and other.cost < plan.cost]
        assert not [other for other in better if other.divergence < plan.divergence * (1 - 1e-5)]


def test_among_equal_costs_the_smaller_divergence_is_planned() -> None:
    options = (Option("w8", -100, 0.2), Option("w8d", -100, 0.1))
    assert solve((Decision("g", options),), 1.0) == Predicted({"g": "w8d"}, -100, 0.1)


def test_a_byte_counts_more_than_any_divergence_within_the_cap() -> None:
    big = Decision("big", (Option("f32", 0, 0.0), Option("w4", -1_000_000, 1e-9)))
    small = Decision("small", (Option("f32", 0, 0.0), Option("w8", -1, 0.9)))
    assert solve((big, small), 1.0) == Predicted({"big": "w4", "small": "w8"}, -1_000_001, 0.9 + 1e-9)


def test_pair_that_saves_bytes_together_is_planned_together() -> None:
    decisions = tuple(Decision(name, (Option("f32", 0, 0.0), Option("w8a8", 10, 0.1))) for name in ("a", "b"))
    together = Interaction(("a", "w8a8"), ("b", "w8a8"), -50, 0.0)
    assert solve(decisions, 1.0, (together,)) == Predicted({"a": "w8a8", "b": "w8a8"}, -30, 0.2)
    assert solve(decisions, 1.0) == Predicted({"a": "f32", "b": "f32"}, 0, 0.0)


def test_no_option_within_the_cap_gives_no_plan() -> None:
    assert solve((Decision("g", (Option("w8", -1, 0.5),)),), 0.1) is None


@pytest.mark.parametrize("largest", [0.0, 0.3])
def test_caps_begin_at_zero_and_end_at_the_largest(largest: float) -> None:
    found = caps(largest)
    assert found[0] == 0.0
    assert found[-1] == pytest.approx(largest)
    assert list(found) == sorted(found)


def test_of_two_equal_plans_one_is_kept() -> None:
    plan = Predicted({"g": "w8"}, -1, 0.1)
    assert undominated([plan, plan]) == (plan,)
