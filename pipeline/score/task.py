"""From a candidate's and the reference's outputs on the same rows to a task score with its interval. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.core.recipe import Metric, Recipe
from pipeline.core.tensors import Array
from pipeline.score.decisions import top_overlap
from pipeline.score.fidelity import Yardstick, kept_rows, yardstick
from pipeline.score.forms import Fitted, fit_labels
from pipeline.score.intervals import Draws, Weighted, percentiles, weighted_mean, weighted_metric
from pipeline.score.metrics import Floats, column, decisions, lists_of, task_metric
from pipeline.score.scorecard import PLACES, TaskScore
from pipeline.score.sharpening import Extra, sharpened
from pipeline.score.unseen import unseen_rows

Answers = Mapping[str, Array]  # the judged outputs by name, first axis rows


@dataclass(frozen=True)
class Question:
    """What answers to the rows of a split are judged by; ``fitted`` labels are None for fidelity."""

    recipe: Recipe
    reference: Answers
    fitted: Fitted | None
    groups: Array | None
    yardsticks: Mapping[str, Yardstick]
    draws: Draws

    @property
    def rows(self) -> int:
        """Return the row count n."""
        return len(next(iter(self.reference.values())))

    @property
    def units(self) -> int:
        """Return how many rows, or lists of a ranking, are drawn again and again."""
        return self.draws.units

    def scores(self, answers: Answers) -> Array:
        """Return the one judged output in the labels' form, or as it is where there are no labels."""
        only = next(iter(answers.values()))
        return only if self.fitted is None else self.fitted.read(only)


@dataclass(frozen=True)
class Measured:
    """A model's metric on the rows of a split, and on every resample of them (r,)."""

    value: float
    resampled: Floats


def ask(recipe: Recipe, reference: Answers, labels: Array | None, groups: Array | None) -> Question:
    """Put the question to the float model's own answers.

    Raises DataError when the labels do not fit them, or a ranking's groups are missing.
    """
    rows = len(next(iter(reference.values())))
    units = len(lists_of(groups, rows).starts) if recipe.metric.is_ranking else rows
    fitted = None if labels is None else fit_labels(recipe.metric, labels, next(iter(reference.values())))
    sticks = {name: yardstick(array, recipe.threshold) for name, array in reference.items()}
    return Question(recipe, reference, fitted, groups, sticks, Draws(units, recipe.seed))


def measure(question: Question, answers: Answers) -> Measured:
    """Measure answers; raises DataError when the labels cannot carry the recipe's metric."""
    value, weighted = _metric(question, answers)
    return Measured(value, question.draws.apply(weighted))


def _metric(question: Question, answers: Answers) -> tuple[float, Weighted]:
    recipe = question.recipe
    if question.fitted is None:
        kept = kept_rows(question.yardsticks, answers, question.reference)
        return float(kept.mean()), weighted_mean(kept)
    given = (recipe.metric, question.scores(answers), question.fitted.labels, question.groups, recipe.threshold)
    return task_metric(*given), weighted_metric(*given)[0]


def task_score(
    split: str, question: Question, candidate: Measured, reference: Measured, doubt: float, extra: Extra | None
) -> TaskScore:
    """Compare a candidate with the reference on the same rows; figures are rounded to six places.

    ``doubt`` is the weight of turned decisions that the rows did not show (see :func:`doubt`).
    """
    metric = question.recipe.metric
    sign = 1 if metric.higher_is_better else -1
    loss = sign * (reference.value - candidate.value)
    losses, width_ratio = sharpened(sign * (reference.resampled - candidate.resampled), extra, question.draws)
    low, high = _ends(losses, doubt, question)
    return TaskScore(
        metric=metric,
        split=split,
        rows=question.rows,
        value=round(candidate.value, PLACES),
        reference_value=round(reference.value, PLACES),
        loss_abs=_rounded(loss),
        loss_low=_rounded(low),
        loss_high=_rounded(high),
        confidence=question.recipe.budgets.confidence,
        loss_relative=_rounded(loss / abs(reference.value)) if reference.value else None,
        units=question.units if metric.is_ranking else None,
        extra_rows=None if extra is None or width_ratio is None else extra.rows,
        width_ratio=None if width_ratio is None else round(width_ratio, 3),
    )


def doubt(question: Question, answers: Answers) -> float:
    """Return how much one unseen turned decision counts, in units of the metric's sum; 0 where nothing is decided."""
    recipe = question.recipe
    if recipe.metric.is_ranking:
        lists = lists_of(question.groups, question.rows)
        scores, reference = (column(question.scores(item)) for item in (answers, question.reference))
        return min(1.0, (1 - top_overlap(scores, reference, lists)) * question.units)
    if recipe.metric is Metric.ACCURACY:
        return _of_one(question.scores(answers), question.scores(question.reference), recipe.threshold)
    if recipe.metric is Metric.FIDELITY:
        deciding = [name for name, stick in question.yardsticks.items() if stick.decides]
        each = [_of_one(answers[name], question.reference[name], recipe.threshold) for name in deciding]
        return sum(each) / len(question.yardsticks)
    return 0.0


def _of_one(scores: Array, reference: Array, threshold: float) -> float:
    decisions_a_row = decisions(reference, threshold).size / len(reference)
    return unseen_rows(scores, reference, threshold) / decisions_a_row


def _ends(losses: Floats, weight: float, question: Question) -> tuple[float, float]:
    """Return the interval's ends; the unseen row is drawn among the others as often as any of them, and against us."""
    if not weight:
        return percentiles(losses, question.recipe.budgets.confidence)
    drawn = np.random.default_rng([question.draws.seed, 1]).poisson(1.0, len(losses)) * weight / question.units
    low, _ = percentiles(losses - drawn, question.recipe.budgets.confidence)
    _, high = percentiles(losses + drawn, question.recipe.budgets.confidence)
    return low, high


def units_needed(task: TaskScore, budget: float) -> int | None:
    """Return how many rows (lists of a ranking) in all would bring the upper end of the loss down to the budget.

    Reckoned from the width now, which shrinks with the square root of the rows (as many as now where it already fits).
    None when no number would: the measured loss itself is over the budget.
    """
    now = task.units or task.rows
    if task.loss_high <= budget:
        return now
    room = budget - task.loss_abs
    if room <= 0:
        return None
    return int(np.ceil(now * ((task.loss_high - task.loss_abs) / room) ** 2))


def _rounded(loss: float) -> float:
    return round(loss, PLACES) + 0.0  # no loss is 0.0, never -0.0
