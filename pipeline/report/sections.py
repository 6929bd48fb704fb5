"""The sections of a report that need more than scorecards: the search and the diagnoses. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from markupsafe import Markup

from pipeline.core.findings import FamilyFinding, Findings, FrontPoint
from pipeline.core.names import Format, Role, Scheme
from pipeline.core.records import StoredOperator
from pipeline.report.plots import Found, front
from pipeline.report.strips import RANGES_SHOWN, heat_strip, range_strip
from pipeline.score.diagnosis import Diagnosis, SliceScore
from pipeline.score.scorecard import Scorecard

MEASURES = {
    "kl": "Kullback-Leibler divergence of the probabilities",
    "noise_to_signal": "noise over signal of the answers",
    "cosine_distance": "cosine distance of the answers",
}
TENSORS_SHOWN = 6


class Examined(Protocol):
    """What the diagnosis section reads of a report's facts."""

    @property
    def diagnoses(self) -> Mapping[str, Diagnosis]:
        """Return the diagnoses by candidate."""
        ...

    @property
    def chosen(self) -> dict[Role, Scorecard]:
        """Return the chosen two."""
        ...


@dataclass(frozen=True)
class FamilyView:
    """One family of a search, ready to show."""

    name: str
    finding: FamilyFinding
    strip: Markup
    ranges: Markup
    ranges_left_out: int
    has_chosen: bool


def search_view(findings: Findings | None) -> dict[str, Any]:
    """Return what the search section shows; everything empty without findings."""
    if findings is None:
        return {"findings": None, "families": [], "front_plot": "", "tried": [], "measure": ""}
    found = [
        _found(findings, family, point) for family in findings.families for point in family.front if point.bytes > 0
    ]
    measure = findings.families[0].measure if findings.families else "kl"
    families = [_family(findings, family) for family in findings.families]
    plot = Markup(front(found, measure.replace("_", " "))) if found else ""  # noqa: S704 - our own SVG
    return {
        "findings": findings,
        "families": sorted(families, key=lambda item: (not item.has_chosen, item.name)),
        "front_plot": plot,
        "tried": [(_name(family), point) for family in findings.families for point in family.front if point.words],
        "measure": MEASURES[measure],
    }


def _family(findings: Findings, family: FamilyFinding) -> FamilyView:
    point = _shown_point(findings, family)
    assignment: Mapping[str, Scheme] = point.assignment if point is not None else {}
    return FamilyView(
        name=_name(family),
        finding=family,
        strip=Markup(heat_strip(family, assignment)),  # noqa: S704 - our own SVG
        ranges=Markup(range_strip(family.ranges)) if family.ranges else Markup(""),  # noqa: S704 - our own SVG
        ranges_left_out=max(0, len(family.ranges) - RANGES_SHOWN),
        has_chosen=findings.chosen is not None and any(item.candidate == findings.chosen for item in family.front),
    )


def _shown_point(findings: Findings, family: FamilyFinding) -> FrontPoint | None:
    """Return the assignment to frame: the chosen one's, or else that of the family's first kept candidate."""
    kept = [point for point in family.front if point.candidate is not None]
    return next((point for point in kept if point.candidate == findings.chosen), kept[0] if kept else None)


def _found(findings: Findings, family: FamilyFinding, point: FrontPoint) -> Found:
    name = point.candidate or "not kept"
    words = (
        f"{_name(family)}, {name}: {point.bytes:,} bytes, divergence {point.divergence:.3g} "
        f"(predicted {point.predicted_divergence:.3g})"
    )
    loss = "" if point.loss_abs is None else f", loss {point.loss_abs:+.4f}, up to {point.loss_high or 0:+.4f}"
    return Found(
        name=words + loss,
        family=_name(family),
        kb=point.bytes / 1000,
        predicted=point.predicted_divergence,
        measured=point.divergence,
        certified=point.certified,
        chosen=findings.chosen is not None and point.candidate == findings.chosen,
    )


def _name(family: FamilyFinding) -> str:
    return family.variant if family.format is Format.TFLITE else f"{family.variant} {family.format}"


def diagnosis_view(facts: Examined) -> dict[str, Any]:
    """Return what the diagnosis section shows; everything empty without diagnoses."""
    chosen = {role: facts.diagnoses[card.candidate] for role, card in facts.chosen.items() if _has(facts, card)}
    ordered = [item.candidate for item in chosen.values()]
    rest = [item for name, item in facts.diagnoses.items() if name not in ordered]
    shown = [*chosen.values(), *rest]
    return {
        "diagnosed": chosen,
        "with_changes": [item for item in shown if item.changes is not None],
        "with_tensors": [item for item in shown if item.tensors.worst],
        "slice_rows": _slice_rows(list(chosen.values())),
        "tensors_shown": TENSORS_SHOWN,
    }


def _has(facts: Examined, card: Scorecard) -> bool:
    return card.candidate in facts.diagnoses


class Stored(Protocol):
    """What the section of number formats reads of a report's facts."""

    @property
    def operators(self) -> Mapping[str, Sequence[StoredOperator]]:
        """Return how each candidate stores its operators."""
        ...

    @property
    def chosen(self) -> dict[Role, Scorecard]:
        """Return the chosen two."""
        ...


@dataclass(frozen=True)
class StorageView:
    """How one of the chosen stores its weights; ``shares`` of the weights' bytes by number format, largest first."""

    role: Role
    candidate: str
    operators: Sequence[StoredOperator]
    shares: tuple[tuple[str, float], ...]


def storage_views(facts: Stored) -> list[StorageView]:
    """Return how the chosen two store their operators; empty for candidates whose record does not say."""
    views = []
    for role, card in facts.chosen.items():
        operators = facts.operators.get(card.candidate, ())
        if operators:
            views.append(StorageView(role, card.candidate, operators, _shares(operators)))
    return views


def _shares(operators: Sequence[StoredOperator]) -> tuple[tuple[str, float], ...]:
    total = sum(item.bytes for item in operators) or 1
    formats = {item.stored_as for item in operators}
    sums = {name: sum(item.bytes for item in operators if item.stored_as == name) / total for name in formats}
    return tuple(sorted(sums.items(), key=lambda item: (-item[1], item[0])))


def _slice_rows(chosen: Sequence[Diagnosis]) -> list[tuple[SliceScore, list[SliceScore | None]]]:
    """Return every group once, with its score by each of the chosen."""
    tables = [{(score.slice, score.group): score for score in item.slices} for item in chosen]
    places = dict.fromkeys(place for table in tables for place in table)
    rows = []
    for place in places:
        scores = [table.get(place) for table in tables]
        rows.append((next(score for score in scores if score is not None), scores))
    return rows
