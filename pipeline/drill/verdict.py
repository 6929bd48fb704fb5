"""Measures against objectives: passed, or every objective that was missed, with its figure and its bound."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.drill.measures import Measures
from pipeline.drill.nouns import Objectives

_COUNTS = {
    "lost_max": "lost", "wrong_max": "wrong", "refused_max": "refused", "late_max": "late",
    "rpo_versions_max": "versions_behind", "failovers_max": "failovers",
}  # fmt: skip
_SHARES = {"abstained_ratio_max": "abstained_ratio", "degraded_ratio_max": "degraded_ratio"}
_TIMES = {
    "worst_ms_max": "worst_ms", "p99_ms_max": "p99_ms", "mttd_ms_max": "mttd_ms", "rto_ms_max": "rto_ms",
    "redundancy_ms_max": "redundancy_ms",
}  # fmt: skip
_NEVER = {
    "mttd_ms_max": ("unnoticed", "never noticed"),
    "rto_ms_max": ("unrestored", "not restored before the load ended"),
    "redundancy_ms_max": ("unredundant", "no standby again before the load ended"),
}


@dataclass(frozen=True)
class Verdict:
    """Whether a drill passed; ``misses`` begin with the name of the objective."""

    passed: bool
    misses: tuple[str, ...] = ()

    @property
    def missed(self) -> tuple[str, ...]:
        """Return the names of what was missed."""
        return tuple(dict.fromkeys(one.partition(":")[0] for one in self.misses))


def judge(objectives: Objectives, measures: Measures) -> Verdict:
    """Judge one play. What could not be played has not passed, nor has what could not be measured.

    Beside the objectives, two laws hold for every drill: no answer of a term that was over, and every strike was done.
    """
    if measures.left_out:
        return Verdict(False, (f"played: {measures.left_out}",))
    misses = tuple(_misses(objectives, measures))
    return Verdict(not misses, misses)


def figure_of(objective: str, measures: Measures) -> float | None:
    """Return the figure that an objective bounds; None where it was not measured, or never came to be."""
    if objective == "localisation_min":
        return measures.localisation
    name = {**_COUNTS, **_SHARES, **_TIMES, "accuracy_loss_max": "accuracy_loss"}[objective]
    figure: float | None = getattr(measures, name)
    return None if never_came(objective, measures) else figure


def never_came(objective: str, measures: Measures) -> bool:
    """Tell whether what an objective bounds never came to be after some strike: a time without an end."""
    return objective in _NEVER and getattr(measures, _NEVER[objective][0]) > 0


def _misses(objectives: Objectives, measures: Measures) -> Iterator[str]:
    if measures.undone:
        yield f"struck: {measures.undone} of {len(measures.strikes)} strikes could not be done"
    if measures.stale:
        yield f"stale: {measures.stale} answers of a term that was over > 0"
    for names, unit in ((_COUNTS, ""), (_SHARES, ""), (_TIMES, " ms")):
        for name, figure in names.items():
            bound = getattr(objectives, name)
            if bound is not None:
                yield from _over(name, getattr(measures, figure), bound, unit)
                yield from _never(name, measures)
    yield from _accuracy(objectives.accuracy_loss_max, measures)
    yield from _localisation(objectives.localisation_min, measures)


def _accuracy(bound: float | None, measures: Measures) -> Iterator[str]:
    if bound is None or not measures.degraded:
        return
    yield from _over("accuracy_loss_max", measures.accuracy_loss, bound, "")
    if measures.accuracy_loss is None:
        yield "accuracy_loss_max: the backup answered, and its accuracy was not measured"


def _localisation(bound: float | None, measures: Measures) -> Iterator[str]:
    if bound is None:
        return
    found = measures.localisation
    if found is not None and found < bound:
        yield f"localisation_min: {found:.3g} < {bound:g}"
    if measures.false_alarms:
        yield f"localisation_min: {measures.false_alarms} false alarms before anything was struck"


def _over(name: str, figure: float | None, bound: float, unit: str) -> Iterator[str]:
    if figure is not None and figure > bound:
        shown = str(figure) if isinstance(figure, int) else f"{figure:.4g}"
        yield f"{name}: {shown}{unit} > {bound:g}{unit}"


def _never(name: str, measures: Measures) -> Iterator[str]:
    count, sentence = _NEVER.get(name, ("", ""))
    if count and getattr(measures, count):
        yield f"{name}: {getattr(measures, count)} of {len(measures.strikes)} strikes {sentence}"
