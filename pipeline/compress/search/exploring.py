"""From float exports to their real Pareto fronts: sensitivities, plans, pairs, swaps, mends; every figure from a file.

Only guide rows are read here. Each step takes the figures of real files and names the files to try next; the steps
are pure (:mod:`proposing`), so the same figures lead to the same files.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.compress.search import proposing
from pipeline.compress.search.families import Family
from pipeline.compress.search.pool import Point, Workshop, front_of
from pipeline.compress.search.proposing import Cost, Tried
from pipeline.compress.search.trial import Build, Figures, Trial
from pipeline.core.recipe import Minimize

SWAP_ROUNDS = 2
# Shares of the search's time: for whole-file schemes of every family, for all of exploring (certifying has the rest).
_WHOLE_FILES = 0.35
_EXPLORING = 0.6
# Shares of one family's time that may be over when a stage begins another file.
_SHARES = {"sensitivities": 0.5, "plans": 0.65, "pairs": 0.7, "swaps": 0.85, "mends": 1.0}
_FIRST_FAMILY = 0.5  # of the time that is left, for the most promising family that is left


@dataclass(frozen=True)
class Survey:
    """One family and all that was tried of it."""

    family: Family
    tried: Tried

    def front(self, cost: Cost) -> tuple[Point, ...]:
        """Return the real files that no other of the family beats, from safest to cheapest."""
        return front_of([Point(build, figures) for build, figures in self.tried.items()], cost)


Propose = Callable[[Survey], Sequence[Build]]


def explore(workshop: Workshop, families: Sequence[Family], minimize: Minimize) -> tuple[Survey, ...]:
    """Try files of every family until nothing better is expected, or the time of each stage is over.

    Whole-file schemes of all families come first, so that a search cut short still knows them. Then one family after
    the other is refined, the one with the smallest whole file first.
    """
    cost = cost_of(minimize)
    surveys = tuple(Survey(family, {}) for family in families)
    surveys = _try(workshop, "floats", surveys, lambda _: [proposing.FLOAT], minimize, _WITHOUT_LIMIT)
    surveys = _try(
        workshop, "whole files", surveys, lambda one: proposing.wholes(one.family.groups), minimize, _WHOLE_FILES
    )
    order = sorted(
        range(len(surveys)), key=lambda place: (_smallest(surveys[place], cost), surveys[place].family.words)
    )
    refined = {}
    for position, place in enumerate(order):
        begun, left = workshop.spent, len(order) - position
        end = begun + max(0.0, _EXPLORING - begun) * (max(_FIRST_FAMILY, 1 / left) if left > 1 else 1.0)
        refined[place] = _refine(workshop, surveys[place], minimize, begun, end)
    return tuple(refined[place] for place in range(len(surveys)))


_WITHOUT_LIMIT = float("inf")


def _smallest(survey: Survey, cost: Cost) -> float:
    return min((cost(figures) for figures in survey.tried.values() if figures.refused is None), default=float("inf"))


def _refine(workshop: Workshop, survey: Survey, minimize: Minimize, begun: float, end: float) -> Survey:
    cost = cost_of(minimize)
    groups = survey.family.groups

    def step(stage: str, propose: Propose) -> None:
        nonlocal survey
        (survey,) = _try(workshop, stage, [survey], propose, minimize, begun + _SHARES[stage] * (end - begun))

    step("sensitivities", lambda _: proposing.cells(groups))
    step("plans", lambda one: proposing.planned(groups, one.tried, cost))
    step("pairs", lambda one: proposing.pairs(groups, one.tried, one.front(cost)))
    step("plans", lambda one: proposing.planned(groups, one.tried, cost))
    for _ in range(SWAP_ROUNDS):
        step("swaps", lambda one: proposing.swaps(groups, one.tried, one.front(cost), cost))
    step("mends", lambda one: proposing.clippings(one.front(cost)))
    step("mends", lambda one: proposing.corrections(one.front(cost)))
    return survey


def weigh(workshop: Workshop, chains: Sequence[tuple[Family, Sequence[Point]]]) -> list[list[Point]]:
    """Measure compressed size and latency of points, for the report alone; where the time is over, as they are."""
    tasks = [(family, Trial(point.build, compressed=True, timed=True)) for family, chain in chains for point in chain]
    found = iter(workshop.measure("weighing", tasks, 1.0, is_part=False))
    return [[Point(point.build, _known(point, next(found, None))) for point in chain] for _, chain in chains]


def _known(point: Point, figures: Figures | None) -> Figures:
    """Keep a latency that the search went by: a second timing would differ from it."""
    if figures is None or figures.refused is not None:
        return point.figures
    before = point.figures.latency_ratio
    return figures if before is None else replace(figures, latency_ratio=before)


def cost_of(minimize: Minimize) -> Cost:
    """Return what a search makes small; for resident memory the file's bytes stand in until the last choice."""
    if minimize is Minimize.LATENCY:
        return lambda figures: figures.latency_ratio or 0.0
    if minimize is Minimize.BYTES_ZSTD:
        return lambda figures: figures.bytes_zstd or 0
    return lambda figures: figures.bytes


def _try(
    workshop: Workshop, stage: str, surveys: Sequence[Survey], propose: Propose, minimize: Minimize, share: float
) -> tuple[Survey, ...]:
    wanted = [[build for build in dict.fromkeys(propose(survey)) if build not in survey.tried] for survey in surveys]
    rounds = itertools.zip_longest(*([(place, build) for build in builds] for place, builds in enumerate(wanted)))
    order = [item for one_each in rounds for item in one_each if item is not None]  # a cut hits all families alike
    tasks = [(surveys[place].family, _trial(build, minimize)) for place, build in order]
    figures = workshop.measure(stage, tasks, share)
    found: list[dict[Build, Figures]] = [{} for _ in surveys]
    for (place, build), item in zip(order, figures, strict=False):
        found[place][build] = item
    return tuple(replace(one, tried={**one.tried, **more}) for one, more in zip(surveys, found, strict=True))


def _trial(build: Build, minimize: Minimize) -> Trial:
    return Trial(build, compressed=minimize is Minimize.BYTES_ZSTD, timed=minimize is Minimize.LATENCY)
