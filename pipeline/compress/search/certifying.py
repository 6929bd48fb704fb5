"""Which points may be trusted to meet the loss budget; pure but for the question that it asks a judge.

Whoever tries a hundred files on one validation split and takes the smallest that passes has, by then, picked luck as
much as quality. So the order of the questions is fixed before the first validation row is read: along each family's
front, from the safest file to the riskiest by the *guide* rows, and the questions stop at the first file whose loss
may be over the budget. Then the chance that any certified file of the family is truly over it is no more than the
one-sided error of a single test (fixed-sequence testing; Angelopoulos, Bates, Candès, Jordan & Lei, Learn then Test,
2021, section 3): the first file that truly is over the budget is asked about once, and nothing behind it counts
unless that one test erred. Starting in the middle, or by bisection, would ask about later files without that guard.

The sequence is sparse where files are far from the cheapest: each question more is one more chance to stop early by
bad luck. Beside it, the family's whole-file schemes are a short sequence of their own, so that one unlucky mix cannot
hide a plain file. All sequences share the error that the recipe allows, 1 - confidence, by weights that are fixed
beforehand (weighted Bonferroni): the more promising the family, the more, and no test is made at a lower level than
the scorecard's own interval. A family whose whole sequence passed hands its share to the next, because nothing of it
is left to be wrong about (the fallback procedure; Wiens, 2003). The order of the families, too, is fixed by guide
rows. A family whose own float export fails is left out: its files would inherit that loss.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.compress.search.families import Family
from pipeline.compress.search.pool import Point
from pipeline.compress.search.proposing import Cost
from pipeline.score.scorecard import TaskScore

CHAIN_MOST = 20
_SAVING_LEAST = 0.03  # a point that saves less than this on its predecessor is not worth a question
_SAVING_LEAST_EARLY = 0.2  # the same, where a file costs more than twice the cheapest
_WHOLE_FILES_WEIGHT = 0.25  # of the whole-file schemes' sequence, beside 1 for the family's front
_ALIKE = 0.05  # families whose cheapest files differ by less are equally promising


@dataclass(frozen=True)
class Verdict:
    """What the judge said of a point; without a ``task`` its file could not be judged, and ``why`` says why."""

    point: Point
    certified: bool
    task: TaskScore | None
    why: str = ""


@dataclass(frozen=True)
class Certificate:
    """What became of one family's sequence; points behind the last verdict were not asked about."""

    family: Family
    chain: tuple[Point, ...]
    verdicts: tuple[Verdict, ...]
    confidence: float  # two-sided level that each of its tests was made at
    words: str = ""

    @property
    def certified(self) -> tuple[Point, ...]:
        """Return the points whose loss is certified to be within the budget."""
        return tuple(item.point for item in self.verdicts if item.certified)


# A point's task score at a confidence; a sentence where it cannot be judged.
Judge = Callable[[Family, Point, float], TaskScore | str]
HasTime = Callable[[], bool]


def chain_of(front: Sequence[Point], whole: Point, cost: Cost) -> tuple[Point, ...]:
    """Return the sequence of a family: its float file ``whole``, then its front without points that hardly save.

    The cheapest file and those of one scheme throughout are always kept.
    """
    cheapest = min((cost(point.figures) for point in front), default=0.0)
    kept: list[Point] = [whole]
    for place, point in enumerate(front):
        least = _SAVING_LEAST if cost(point.figures) <= 2 * cheapest else _SAVING_LEAST_EARLY
        saves = cost(point.figures) < (1 - least) * cost(kept[-1].figures)
        is_kept_anyway = point.build.uniform is not None or place == len(front) - 1
        if saves or (is_kept_anyway and cost(point.figures) < cost(kept[-1].figures)):
            kept.append(point)
    while len(kept) > CHAIN_MOST:
        del kept[_most_crowded(kept, cost)]
    return tuple(kept)


def _most_crowded(chain: Sequence[Point], cost: Cost) -> int:
    """Return the place, neither first nor last, whose neighbours are the closest in cost, by their ratio."""
    figures = [cost(point.figures) for point in chain]
    return min(range(1, len(chain) - 1), key=lambda place: (figures[place - 1] / max(figures[place + 1], 1e-9), place))


@dataclass(frozen=True)
class Candidacy:
    """What of a family is asked about: its sequence, and its files of one scheme throughout, safest first."""

    family: Family
    chain: tuple[Point, ...]
    wholes: tuple[Point, ...] = ()


def certify(
    candidacies: Sequence[Candidacy],
    judge: Judge,
    budget: float,
    confidence: float,
    cost: Cost,
    has_time: HasTime,
) -> tuple[Certificate, ...]:
    """Ask about each family's sequence in turn, the most promising family first, and return what became of each.

    A family that cannot beat what is certified already, nor add a file format to it, is not asked about.
    """
    order = sorted(candidacies, key=lambda item: _promise(item, cost))
    errors = shares(len(order), 1 - confidence)
    carried = 0.0
    done: list[Certificate] = []
    for item, (error, _) in zip(order, errors, strict=True):
        at = _level(error + carried, confidence)
        if not _could_add(item.family, item.chain, done, cost):
            done.append(
                Certificate(item.family, item.chain, (), at, "nothing of it could beat what is certified already")
            )
            carried = 0.0
            continue
        verdicts = _ask_along(item.family, item.chain, judge, budget, at, has_time)
        done.append(Certificate(item.family, item.chain, verdicts, at, _words(item.chain, verdicts)))
        carried = error + carried if len(done[-1].certified) == len(item.chain) else 0.0
    for place, (item, (_, error)) in enumerate(zip(order, errors, strict=True)):
        if done[place].certified and _could_add(item.family, item.wholes, done, cost):
            verdicts = _ask_along(item.family, item.wholes, judge, budget, _level(error, confidence), has_time)
            known = {verdict.point.build for verdict in done[place].verdicts if verdict.certified}
            more = tuple(one for one in verdicts if one.certified and one.point.build not in known)
            done[place] = replace(done[place], verdicts=_with(done[place].verdicts, more))
    return tuple(done)


def shares(families: int, error: float) -> tuple[tuple[float, float], ...]:
    """Return how much of the error each family's sequence gets, and its whole-file schemes, in order of promise."""
    weights = [1 / (place + 1) for place in range(families)]
    whole = sum(weights) * (1 + _WHOLE_FILES_WEIGHT)
    return tuple((error * one / whole, error * one * _WHOLE_FILES_WEIGHT / whole) for one in weights)


def _level(error: float, confidence: float) -> float:
    """Return the two-sided level whose upper end errs with that chance, at least the recipe's own."""
    return max(confidence, 1 - 2 * error)


def _promise(item: Candidacy, cost: Cost) -> tuple[int, bool, str, str]:
    cheapest = max(_cheapest(item.chain, cost), 1e-9)
    size = round(math.log(cheapest) / math.log1p(_ALIKE)) if math.isfinite(cheapest) else 10**9
    return size, item.family.export.variant != "dense", item.family.export.variant, item.family.export.format


def _could_add(family: Family, points: Sequence[Point], done: Sequence[Certificate], cost: Cost) -> bool:
    best = min(
        (cost(point.figures) for one in done for point in one.certified if point.build.schemes), default=float("inf")
    )
    formats = {one.family.export.format for one in done if _stored(one.certified)}
    return bool(points) and (family.export.format not in formats or _cheapest(points, cost) < best)


def _with(verdicts: tuple[Verdict, ...], more: tuple[Verdict, ...]) -> tuple[Verdict, ...]:
    """Put certified whole files in place of what was said of them before."""
    replaced = {one.point.build for one in more}
    return (*more, *(one for one in verdicts if one.point.build not in replaced))


def _ask_along(
    family: Family, chain: Sequence[Point], judge: Judge, budget: float, confidence: float, has_time: HasTime
) -> tuple[Verdict, ...]:
    verdicts: list[Verdict] = []
    for point in chain:
        if not has_time():
            break
        said = judge(family, point, confidence)
        if isinstance(said, str):
            verdicts.append(Verdict(point, False, None, said))
        else:
            verdicts.append(Verdict(point, said.loss_high <= budget, said))
        if not verdicts[-1].certified:
            break
    return tuple(verdicts)


def _words(chain: Sequence[Point], verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "the time ran out before it was asked about" if chain else "no file of it could be made"
    first = verdicts[0]
    if not first.certified:
        lost = first.why if first.task is None else f"it may lose up to {first.task.loss_high:.6g}"
        return f"left out: its own float export is over the budget ({lost})"
    return ""


def _stored(points: Sequence[Point]) -> bool:
    return any(point.build.schemes for point in points)


def _cheapest(chain: Sequence[Point], cost: Cost) -> float:
    return min((cost(point.figures) for point in chain), default=float("inf"))
