"""The plan of a search, pure: which number format each weight group should get, for every limit on divergence.

A multiple-choice knapsack (Sinha & Zoltners, 1979): every group takes exactly one option; the sum of what the options
cost is made small while the sum of their divergences stays under a cap. Moving the cap gives the predicted Pareto
front. Both sums are only predictions, so what comes out is tried in real files; where two options together differ
from their sum, an :class:`Interaction` carries the difference into the next plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp  # type: ignore[import-untyped]  # it ships no types
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # it ships no types

CAPS = 32
_CAP_SPAN = 1e-5  # the smallest cap that is tried, of the cheapest plan's divergence

Floats = npt.NDArray[np.float64]
Plan = Mapping[str, str]  # group name to the name of its option


@dataclass(frozen=True)
class Option:
    """One way to store a group, against storing it in float32: ``cost`` is added (mostly negative), in any unit."""

    name: str
    cost: float
    divergence: float  # at least 0


@dataclass(frozen=True)
class Decision:
    """One group and its options; no two share a name."""

    group: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Interaction:
    """What two options of two groups add to the sums when both are taken."""

    first: tuple[str, str]  # group, option
    second: tuple[str, str]
    cost: float
    divergence: float


@dataclass(frozen=True)
class Predicted:
    """A plan with its predicted sums."""

    plan: Plan
    cost: float
    divergence: float


def plan_front(decisions: Sequence[Decision], interactions: Sequence[Interaction] = ()) -> tuple[Predicted, ...]:
    """Return the best plans for caps from zero to the cheapest plan's divergence, from safest to cheapest.

    No plan of the result is beaten by another in both sums. Equal arguments give an equal result.
    """
    useful = tuple(_useful(decision, interactions) for decision in decisions)
    cheapest = solve(useful, float("inf"), interactions)
    if cheapest is None:
        return ()
    found = [cheapest]
    for cap in caps(cheapest.divergence):
        plan = solve(useful, cap, interactions)
        if plan is not None:
            found.append(plan)
    return undominated(found)


def caps(largest: float) -> tuple[float, ...]:
    """Return zero and limits evenly spaced in their logarithm below the largest divergence worth allowing."""
    if largest <= 0:
        return (0.0,)
    return (0.0, *(float(cap) for cap in np.geomspace(largest * _CAP_SPAN, largest, CAPS)))


def undominated(plans: Sequence[Predicted]) -> tuple[Predicted, ...]:
    """Return the plans that no other beats in cost and divergence, by rising divergence."""
    kept: list[Predicted] = []
    for plan in sorted(plans, key=lambda item: (item.divergence, item.cost, sorted(item.plan.items()))):
        if not kept or plan.cost < kept[-1].cost:
            kept.append(plan)
    return tuple(kept)


def solve(decisions: Sequence[Decision], cap: float, interactions: Sequence[Interaction] = ()) -> Predicted | None:
    """Return the cheapest plan whose divergence is at most ``cap``, or None where there is none.

    Products of two choices are made linear the usual way (Glover & Woolsey, 1974): one variable for each, at most
    either choice and at least their sum less one. HiGHS proves the optimum (no gap).
    """
    if not decisions:
        return Predicted({}, 0.0, 0.0)
    columns = [(decision.group, option.name) for decision in decisions for option in decision.options]
    place = {key: index for index, key in enumerate(columns)}
    pairs = [pair for pair in interactions if pair.first in place and pair.second in place]
    options = [option for decision in decisions for option in decision.options]
    cost = np.array([option.cost for option in options] + [pair.cost for pair in pairs])
    divergence = np.array([option.divergence for option in options] + [pair.divergence for pair in pairs])
    solution = milp(
        _scaled(cost) + _tie_break(cost, divergence),
        constraints=[
            _one_each(decisions, len(cost)),
            *_within(divergence, cap),
            *_products(place, pairs, len(cost)),
        ],
        integrality=np.ones(len(cost)),
        bounds=Bounds(0, _upper(divergence, cap, len(options))),
        options={"mip_rel_gap": 0.0},
    )
    if solution.x is None:
        return None
    taken = np.round(solution.x)
    plan = {group: name for (group, name), is_taken in zip(columns, taken, strict=False) if is_taken}
    return predict(decisions, plan, pairs)


def predict(decisions: Sequence[Decision], plan: Plan, interactions: Sequence[Interaction] = ()) -> Predicted:
    """Return a plan with its sums; no divergence is below 0, whatever interactions say."""
    taken = [option for decision in decisions for option in decision.options if plan[decision.group] == option.name]
    both = [pair for pair in interactions if all(plan.get(group) == name for group, name in (pair.first, pair.second))]
    return Predicted(
        dict(sorted(plan.items())),
        sum(option.cost for option in taken) + sum(pair.cost for pair in both),
        max(0.0, sum(option.divergence for option in taken) + sum(pair.divergence for pair in both)),
    )


def _useful(decision: Decision, interactions: Sequence[Interaction]) -> Decision:
    """Leave out options that another of the group beats in both figures, unless an interaction speaks of them."""
    spoken_of = {key for pair in interactions for key in (pair.first, pair.second)}
    kept: list[Option] = []
    least = float("inf")
    for option in sorted(decision.options, key=lambda item: (item.divergence, item.cost, item.name)):
        if option.cost < least or (decision.group, option.name) in spoken_of:
            kept.append(option)
        least = min(least, option.cost)
    return Decision(decision.group, tuple(kept))


def _scaled(cost: Floats) -> Floats:
    """Bring costs to about one: the solver's tolerances are absolute."""
    largest = float(np.abs(cost).max(initial=0.0))
    return cost / largest if largest else cost


def _tie_break(cost: Floats, divergence: Floats) -> Floats:
    """Prefer the smaller divergence among equal costs, by less than the smallest difference of costs that counts."""
    largest = float(np.abs(divergence).max(initial=0.0))
    return np.asarray(1e-7 * divergence / (largest * max(len(cost), 1))) if largest else np.zeros(len(cost))


def _one_each(decisions: Sequence[Decision], width: int) -> LinearConstraint:
    counts = [len(decision.options) for decision in decisions]
    rows = np.repeat(np.arange(len(counts)), counts)
    matrix = csr_matrix((np.ones(len(rows)), (rows, np.arange(len(rows)))), (len(counts), width))
    return LinearConstraint(matrix, 1, 1)


def _within(divergence: Floats, cap: float) -> list[LinearConstraint]:
    if not np.isfinite(cap) or cap <= 0:
        return []  # nothing to limit, or all but the harmless options are ruled out by their bounds
    return [LinearConstraint(np.clip(divergence / cap, -1e6, 1e6)[None, :], -np.inf, 1.0)]


def _upper(divergence: Floats, cap: float, options: int) -> Floats:
    allowed = np.ones(len(divergence))
    allowed[:options] = divergence[:options] <= cap
    return allowed


def _products(place: Mapping[tuple[str, str], int], pairs: Sequence[Interaction], width: int) -> list[LinearConstraint]:
    if not pairs:
        return []
    first_product = width - len(pairs)
    entries: list[tuple[int, int, float]] = []
    for index, pair in enumerate(pairs):
        one, other, both = place[pair.first], place[pair.second], first_product + index
        row = 3 * index
        entries += [(row, both, 1.0), (row, one, -1.0), (row + 1, both, 1.0), (row + 1, other, -1.0)]
        entries += [(row + 2, one, 1.0), (row + 2, other, 1.0), (row + 2, both, -1.0)]
    rows, columns, values = zip(*entries, strict=True)
    upper = np.tile([0.0, 0.0, 1.0], len(pairs))
    return [LinearConstraint(csr_matrix((values, (rows, columns)), (3 * len(pairs), width)), -np.inf, upper)]
