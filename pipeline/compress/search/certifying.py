"""Which points may be trusted to meet the loss budget; pure but for the question that it asks a judge.

Whoever tries a hundred files on one validation split and takes the smallest that passes has, by then, picked luck as
much as quality. So the order of the questions is fixed before the first validation row is read: along each family's
front, from the safest file to the riskiest by the *guide* rows, and the questions stop at the first file whose loss
may be over the budget. Then the chance that any certified file of the family is truly over it is no more than the
one-sided error of a single test (fixed-sequence testing; Angelopoulos, Bates, Candès, Jordan & Lei, Learn then Test,
2021, section 3): the first file that truly is over the budget is asked about once, and nothing behind it counts
unless that one test erred. Starting in the middle, or by bisection, would ask about later files without that guard.

Families share the error (Bonferroni); one whose whole sequence passed hands its share to the next, because nothing of
it is left to be wrong about (the fallback procedure; Wiens, 2003). The order of the families, too, is fixed by guide
rows. A family whose own float export fails is left out: its files would inherit that loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.compress.search.families import Family
from pipeline.compress.search.pool import Point
from pipeline.compress.search.proposing import Cost
from pipeline.score.scorecard import TaskScore

CHAIN_MOST = 40
_SAVING_LEAST = 0.01  # a point that saves less than this on its predecessor is not worth a question


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
    """Return the sequence of a family: its float file ``whole``, then its front without points that hardly save."""
    kept: list[Point] = [whole]
    for point in front:
        if not kept or cost(point.figures) < (1 - _SAVING_LEAST) * cost(kept[-1].figures):
            kept.append(point)
    while len(kept) > CHAIN_MOST:
        del kept[_most_crowded(kept, cost)]
    return tuple(kept)


def _most_crowded(chain: Sequence[Point], cost: Cost) -> int:
    """Return the place, neither first nor last, whose neighbours are the closest in cost, by their ratio."""
    figures = [cost(point.figures) for point in chain]
    return min(range(1, len(chain) - 1), key=lambda place: (figures[place - 1] / max(figures[place + 1], 1e-9), place))


def certify(
    chains: Sequence[tuple[Family, tuple[Point, ...]]],
    judge: Judge,
    budget: float,
    confidence: float,
    cost: Cost,
    has_time: HasTime,
) -> tuple[Certificate, ...]:
    """Ask about each family's sequence in turn, the most promising family first, and return what became of each.

    A family that cannot beat what is certified already, nor add a file format to it, is not asked about.
    """
    order = sorted(chains, key=lambda item: (_cheapest(item[1], cost), item[0].export.variant, item[0].export.format))
    error = (1 - confidence) / max(len(order), 1)
    carried = 0.0
    done: list[Certificate] = []
    for family, chain in order:
        at = 1 - (error + carried)
        best = min((cost(point.figures) for one in done for point in one.certified), default=float("inf"))
        formats = {one.family.export.format for one in done if _stored(one.certified)}
        if family.export.format in formats and _cheapest(chain, cost) >= best:
            done.append(Certificate(family, chain, (), at, "nothing of it could beat what is certified already"))
            carried = 0.0
            continue
        verdicts = _ask_along(family, chain, judge, budget, at, has_time)
        done.append(Certificate(family, chain, verdicts, at, _words(chain, verdicts)))
        carried = error + carried if len(done[-1].certified) == len(chain) else 0.0
    return tuple(done)


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
