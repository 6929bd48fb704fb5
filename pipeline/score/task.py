"""From a candidate's and the reference's outputs on the same rows to a task score with its interval. Pure."""

from dataclasses import dataclass

import numpy as np

from pipeline.core.recipe import Metric, Recipe
from pipeline.core.tensors import Array
from pipeline.score.intervals import CONFIDENCE, loss_interval, resampled
from pipeline.score.metrics import Floats, task_metric
from pipeline.score.scorecard import PLACES, TaskScore


@dataclass(frozen=True)
class Measured:
    """A model's metric on the rows of a split, and on every resample of them (r,)."""

    value: float
    resampled: Floats
    rows: int
    units: int  # what is drawn again and again: rows, or whole lists of a ranking


def measure(recipe: Recipe, scores: Array, labels: Array, groups: Array | None) -> Measured:
    """Measure outputs (n, k) against labels (n,); raises DataError when the labels cannot carry the recipe's metric."""
    value = task_metric(recipe.metric, scores, labels, groups, recipe.threshold)
    again = resampled(recipe.metric, scores, labels, groups, recipe.threshold, recipe.seed)
    units = len(labels) if groups is None or not recipe.metric.is_ranking else len(np.unique(groups))
    return Measured(value, again, len(labels), units)


def task_score(metric: Metric, split: str, candidate: Measured, reference: Measured) -> TaskScore:
    """Compare a candidate with the reference on the same rows; figures are rounded to six places."""
    gap = reference.value - candidate.value
    loss = gap if metric.higher_is_better else -gap
    low, high = loss_interval(metric, candidate.resampled, reference.resampled)
    return TaskScore(
        metric=metric,
        split=split,
        rows=candidate.rows,
        value=round(candidate.value, PLACES),
        reference_value=round(reference.value, PLACES),
        loss_abs=_rounded(loss),
        loss_low=_rounded(low),
        loss_high=_rounded(high),
        confidence=CONFIDENCE,
        loss_relative=_rounded(loss / abs(reference.value)) if reference.value else None,
    )


def _rounded(loss: float) -> float:
    return round(loss, PLACES) + 0.0  # no loss is 0.0, never -0.0
