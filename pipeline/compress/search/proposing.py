"""Which files to try next, given what was tried; pure."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.compress.schemes.calibration import Clipping
from pipeline.compress.schemes.groups import WeightGroup
from pipeline.compress.search.planning import Decision, Interaction, Option, plan_front
from pipeline.compress.search.pool import Point
from pipeline.compress.search.trial import Build, Figures
from pipeline.core.names import Scheme

OPERATING_POINTS = (0.35, 0.65, 1.0)  # places on the front where pairs are tried, from harmless 0 to cheapest 1
GROUPS_PAIRED = 5
SWAPS_A_ROUND = 32
FRONT_MENDED = 24

FLOAT = Build()  # no group stored in anything but float32

Groups = Sequence[WeightGroup]
Tried = Mapping[Build, Figures]
Cost = Callable[[Figures], float]
Schemes = Mapping[str, Scheme]


def wholes(groups: Groups) -> list[Build]:
    """Return each scheme for the whole file."""
    offered = {scheme for group in groups for scheme in group.choices} - {Scheme.F32}
    return [Build(scheme) for scheme in Scheme if scheme in offered]


def cells(groups: Groups) -> list[Build]:
    """Return each group alone in each of its schemes.

    The heaviest groups come first: where the time runs out, the light ones stay float32.
    """
    heaviest = sorted(groups, key=lambda group: (-group.weight_bytes, group.name))
    return list(dict.fromkeys(mixed({group.name: scheme}) for group in heaviest for scheme in group.choices))


def mixed(schemes: Schemes) -> Build:
    """Return the build of a scheme a group; a group that is left out stays float32."""
    kept = ((name, scheme) for name, scheme in schemes.items() if scheme is not Scheme.F32)
    return Build(None, tuple(sorted(kept)))


def schemes_of(build: Build, groups: Groups) -> dict[str, Scheme]:
    """Return the scheme of every group in a file; a whole-file scheme leaves out groups that do not offer it."""
    given = dict(build.assignment)
    whole = build.uniform
    return {
        group.name: whole if whole is not None and whole in group.choices else given.get(group.name, Scheme.F32)
        for group in groups
    }


def planned(groups: Groups, tried: Tried, cost: Cost) -> list[Build]:
    """Return the plans for every limit on divergence, by single groups and the pairs that were tried."""
    options = decisions(groups, tried, cost)
    front = plan_front(options, interactions(tried, cost))
    return [mixed({name: Scheme(scheme) for name, scheme in plan.plan.items()}) for plan in front]


def decisions(groups: Groups, tried: Tried, cost: Cost) -> tuple[Decision, ...]:
    """Return each group's options, against the float file, from the files where it alone was stored otherwise."""
    base = tried.get(FLOAT)
    if base is None or base.refused is not None:
        return ()
    return tuple(Decision(group.name, tuple(_options(group, tried, cost, cost(base)))) for group in groups)


def _options(group: WeightGroup, tried: Tried, cost: Cost, base: float) -> Iterator[Option]:
    yield Option(Scheme.F32, 0.0, 0.0)
    for scheme in group.choices:
        figures = tried.get(mixed({group.name: scheme}))
        if scheme is not Scheme.F32 and figures is not None and figures.refused is None:
            yield Option(scheme, cost(figures) - base, figures.divergence)


def pairs(groups: Groups, tried: Tried, front: Sequence[Point]) -> list[Build]:
    """Return files of two groups each: those that matter most at places on the front between harmless and cheapest."""
    wanted: list[Build] = []
    for place in OPERATING_POINTS if front else ():
        point = front[round(place * (len(front) - 1))]
        chosen = [(name, scheme) for name, scheme in schemes_of(point.build, groups).items() if scheme != Scheme.F32]
        ranked = sorted(chosen, key=lambda item: (-_divergence(tried, *item), item))[:GROUPS_PAIRED]
        wanted += [mixed(dict(two)) for two in itertools.combinations(sorted(ranked), 2)]
    return wanted


def _divergence(tried: Tried, name: str, scheme: Scheme) -> float:
    figures = tried.get(mixed({name: scheme}))
    return 0.0 if figures is None else figures.divergence


def interactions(tried: Tried, cost: Cost) -> tuple[Interaction, ...]:
    """Return by how much each tried pair differs from the sum of its two groups."""
    usable = {build: figures for build, figures in tried.items() if figures.refused is None}
    found = []
    for build, figures in usable.items():
        alone = [usable.get(mixed(dict([item]))) for item in build.assignment]
        if len(alone) != 2 or build != mixed(dict(build.assignment)):
            continue
        one, other = alone
        if one is not None and other is not None:
            more = cost(figures) - cost(one) - cost(other) + cost(usable[FLOAT])
            further = figures.divergence - one.divergence - other.divergence
            found.append(Interaction(build.assignment[0], build.assignment[1], more, further))
    return tuple(sorted(found, key=lambda pair: (pair.first, pair.second)))


def swaps(groups: Groups, tried: Tried, front: Sequence[Point], cost: Cost) -> list[Build]:
    """Return files one group away from the front that are expected to beat it: a real file plus two real differences.

    The expected gain is how far a file would push the front: its saving at the divergence where it lands.
    """
    options = {
        (decision.group, option.name): option
        for decision in decisions(groups, tried, cost)
        for option in decision.options
    }
    hopes: dict[Build, float] = {}
    for point in front:
        now = schemes_of(point.build, groups)
        for (name, scheme), option in options.items():
            before = options.get((name, now[name]))
            build = mixed({**now, name: Scheme(scheme)})
            if before is None or build in tried:
                continue
            expected_cost = cost(point.figures) + option.cost - before.cost
            expected_divergence = point.figures.divergence + option.divergence - before.divergence
            gain = _least_cost(front, max(0.0, expected_divergence), cost) - expected_cost
            hopes[build] = max(gain, hopes.get(build, 0.0))
    ranked = sorted((build for build, gain in hopes.items() if gain > 0), key=lambda one: (-hopes[one], one.assignment))
    return ranked[:SWAPS_A_ROUND]


def _least_cost(front: Sequence[Point], divergence: float, cost: Cost) -> float:
    """Return the cost of the cheapest file of the front whose divergence is not above the given one."""
    return min(
        (cost(point.figures) for point in front if point.figures.divergence <= divergence),
        default=cost(front[0].figures),
    )


def clippings(front: Sequence[Point]) -> list[Build]:
    """Return the front's files with rare values of activations cut off."""
    calibrated = [point.build for point in thinned(front, FRONT_MENDED) if point.build.needs_ranges]
    return [replace(build, clipping=clip) for build in calibrated for clip in Clipping if clip is not Clipping.NONE]


def corrections(front: Sequence[Point]) -> list[Build]:
    """Return the front's files with corrected biases."""
    stored = [point.build for point in thinned(front, FRONT_MENDED) if point.build.schemes]
    return [replace(build, corrected=True) for build in stored]


def thinned(front: Sequence[Point], most: int) -> tuple[Point, ...]:
    """Return at most ``most`` points, the first and the last among them, evenly spaced."""
    if len(front) <= most:
        return tuple(front)
    places = sorted({round(index * (len(front) - 1) / (most - 1)) for index in range(most)})
    return tuple(front[place] for place in places)
