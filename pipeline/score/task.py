"""From a candidate's and the reference's outputs on the same rows to a task score with its interval. Pure."""

from pipeline.core.recipe import Recipe
from pipeline.core.tensors import Array
from pipeline.score.intervals import CONFIDENCE, loss_interval, weighted_metric
from pipeline.score.metrics import task_metric
from pipeline.score.scorecard import PLACES, TaskScore


def task_score(
    recipe: Recipe, split: str, scores: Array, reference: Array, labels: Array, groups: Array | None
) -> TaskScore:
    """Score outputs (n, k) against labels (n,) and against the reference's outputs (n, k) on the same rows.

    Figures are rounded to six places. Raises DataError when the labels cannot carry the recipe's metric.
    """
    metric, threshold = recipe.metric, recipe.threshold
    value = task_metric(metric, scores, labels, groups, threshold)
    reference_value = task_metric(metric, reference, labels, groups, threshold)
    loss = reference_value - value if metric.higher_is_better else value - reference_value
    ours, units = weighted_metric(metric, scores, labels, groups, threshold)
    theirs, _ = weighted_metric(metric, reference, labels, groups, threshold)
    low, high = loss_interval(metric, ours, theirs, units, recipe.seed)
    return TaskScore(
        metric=metric,
        split=split,
        rows=len(labels),
        value=round(value, PLACES),
        reference_value=round(reference_value, PLACES),
        loss_abs=round(loss, PLACES),
        loss_low=round(low, PLACES),
        loss_high=round(high, PLACES),
        confidence=CONFIDENCE,
        loss_relative=round(loss / abs(reference_value), PLACES) if reference_value else None,
    )
