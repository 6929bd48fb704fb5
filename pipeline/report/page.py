"""The one-page report of a model: recorded values in, one self-contained HTML text out. No IO but its own template."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.core.findings import Findings
from pipeline.core.names import Role
from pipeline.core.recipe import Preference, Recipe
from pipeline.core.records import StoredOperator
from pipeline.report import words
from pipeline.report.plots import SHAPES, Limit, Point, scatter
from pipeline.report.sections import diagnosis_view, search_view, storage_views
from pipeline.report.strips import short
from pipeline.score.diagnosis import Diagnosis
from pipeline.score.intervals import RESAMPLES
from pipeline.score.scorecard import Scorecard, Scored
from pipeline.score.selection import Selected, Verdict, preferences

# Losses beyond this many budgets would flatten all others; they sit at the plot's edge with their figure.
_BUDGETS_SHOWN = 2
# The 95th percentile of a busy machine can be a hundred medians; its bar ends at the plot's edge.
_MEDIANS_SHOWN = 2
LOSS_PLOT, LATENCY_PLOT = "loss.svg", "latency.svg"
# With more candidates than this, plots name only those that matter; the tables name all.
_NAMES_SHOWN = 12


@dataclass(frozen=True)
class Facts:
    """All that a report tells of one model."""

    recipe: Recipe
    scored: Scored
    cards: tuple[Scorecard, ...]
    selected: Selected
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict)
    findings: Findings | None = None
    operators: Mapping[str, Sequence[StoredOperator]] = field(default_factory=dict)

    def card(self, candidate: str) -> Scorecard:
        """Return a candidate's scorecard."""
        return next(card for card in self.cards if card.candidate == candidate)

    def verdict(self, candidate: str) -> Verdict:
        """Return a candidate's verdict."""
        return next(item for item in self.selected.verdicts if item.candidate == candidate)

    @property
    def reference(self) -> Scorecard:
        """Return the float candidate that every loss is measured against."""
        return self.card(self.scored.reference)

    @property
    def chosen(self) -> dict[Role, Scorecard]:
        """Return the two chosen candidates."""
        return {Role.PRIMARY: self.card(self.selected.primary), Role.BACKUP: self.card(self.selected.backup)}


def draw(facts: Facts) -> dict[str, str]:
    """Return the page's plots as SVG texts, by the file name that each may have."""
    return {LOSS_PLOT: _loss_plot(facts), LATENCY_PLOT: _latency_plot(facts)}


def render(facts: Facts, plots: Mapping[str, str]) -> str:
    """Return the page with its plots; it loads nothing from elsewhere, and equal facts give equal text."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(words=words, Role=Role, short=short)
    return environment.get_template("page.html.j2").render(**_view(facts, plots))


def _view(facts: Facts, plots: Mapping[str, str]) -> dict[str, Any]:
    prefer = preferences(facts.recipe)
    return {
        "facts": facts,
        "recipe": facts.recipe,
        "metric": words.METRIC_NAMES[facts.recipe.metric],
        "reference": facts.reference,
        "chosen": facts.chosen,
        "sentences": [
            words.role_sentence(role, prefer[role], card, facts.reference) for role, card in facts.chosen.items()
        ],
        "rows": sorted(facts.cards, key=lambda card: (*_order(facts.verdict(card.candidate)), card.size.bytes)),
        "verdicts": sorted(facts.selected.verdicts, key=_order),
        "zeros": words.pruned_pairs(facts.cards),
        **search_view(facts.findings),
        **diagnosis_view(facts),
        "storages": storage_views(facts),
        "loss_plot": Markup(plots[LOSS_PLOT]),  # noqa: S704 - our own SVG
        "latency_plot": Markup(plots[LATENCY_PLOT]),  # noqa: S704 - our own SVG
        "sharpening": words.sharpening(facts.cards),
        "resamples": RESAMPLES,
        "names_shown": _NAMES_SHOWN,
        "is_ranking": facts.recipe.metric.is_ranking,
    }


def _order(verdict: Verdict) -> tuple[int, str]:
    """Put the chosen first, then who was within the budgets, then the others."""
    places: list[Role | None] = [Role.PRIMARY, Role.BACKUP, None]
    return places.index(verdict.role) + (not verdict.eligible), verdict.candidate


def _loss_plot(facts: Facts) -> str:
    budget = facts.recipe.budgets.loss_max_abs
    tasks = [card.task for card in facts.cards]
    points = _points(facts, [(task.loss_abs, task.loss_low, task.loss_high) for task in tasks])
    label = f"loss of {words.METRIC_NAMES[facts.recipe.metric]} against float"
    limit = Limit(budget, f"budget {budget:g}, for the bars' upper ends")
    return scatter(points, _size_label(facts), label, limit, budget * _BUDGETS_SHOWN or math.inf)


def _latency_plot(facts: Facts) -> str:
    times = [card.timings for card in facts.cards]
    points = _points(facts, [(time.latency_p50_ms, time.latency_p50_ms, time.latency_p95_ms) for time in times])
    most = facts.recipe.budgets.latency_p95_ms_max
    limit = None if most is None else Limit(most, f"budget {most:g} ms, for the bars' upper ends")
    slowest = max([point.y for point in points] + ([] if most is None else [most]))
    return scatter(points, _size_label(facts), "latency of one call, ms", limit, slowest * _MEDIANS_SHOWN)


def _shows_compressed(facts: Facts) -> bool:
    """Tell whether sizes are plotted compressed: where the backup is chosen by that, it is what counts."""
    return facts.recipe.select.backup.prefer is Preference.BYTES_ZSTD


def _size_label(facts: Facts) -> str:
    return f"{'compressed' if _shows_compressed(facts) else 'file'} size, kB (logarithmic)"


def _points(facts: Facts, heights: Sequence[tuple[float, float, float]]) -> list[Point]:
    """Make a point of every card and its (y, low, high)."""
    sizes = [card.size.bytes_zstd if _shows_compressed(facts) else card.size.bytes for card in facts.cards]
    places = [(size / 1000, height[0]) for size, height in zip(sizes, heights, strict=True)]
    verdicts = [facts.verdict(card.candidate) for card in facts.cards]
    few = len(places) <= _NAMES_SHOWN
    return [
        Point(
            card.candidate,
            _shape_of(card.variant, len({item.variant for item in facts.cards})),
            place[0],
            *height,
            verdict.role,
            verdict.eligible,
            hover=f"{card.candidate}: {words.hover(card)}",
            named=few or verdict.role is not None or card == facts.reference or not _beaten(place, places),
        )
        for card, verdict, place, height in zip(facts.cards, verdicts, places, heights, strict=True)
    ]


def _shape_of(variant: str, variants: int) -> str:
    """Return what a mark's shape stands for: the variant, or where there are more than shapes what was done to it."""
    return variant if variants <= len(SHAPES) else words.variant_kind(variant)


def _beaten(place: tuple[float, float], places: Sequence[tuple[float, float]]) -> bool:
    """Tell whether another place is at least as good in both figures and better in one."""
    return any(other[0] <= place[0] and other[1] <= place[1] and other != place for other in places)
