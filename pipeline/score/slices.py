"""Groups of rows that the data name, looked at one by one."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.core.recipe import Recipe
from pipeline.core.tensors import Array, map_npz
from pipeline.data.checks import check_finite
from pipeline.score.diagnosis import SliceScore
from pipeline.score.fidelity import kept_rows
from pipeline.score.metrics import task_metric
from pipeline.score.scorecard import PLACES
from pipeline.score.task import Answers, Question

GROUPS_MAX = 20  # an array with more different numbers is cut into quarters
ROWS_MIN = 20  # a group of fewer rows is not called the worst: its loss is mostly chance


def read_slices(recipe: Recipe, path: Path, rows: int) -> dict[str, Array]:
    """Map the recipe's slice arrays (n,).

    Raises DataError when one is missing, is not one value a row, or holds NaN, which is equal to no group's value.
    """
    tensors = map_npz(path, DataError) if recipe.slices else {}
    for name in recipe.slices:
        if name not in tensors:
            found = ", ".join(sorted(tensors))
            raise DataError(f"{path} holds no array {name!r}, which the recipe's slices name; it holds {found}.")
        if tensors[name].shape not in ((rows,), (rows, 1)):
            raise DataError(f"{path}: the slice {name!r} has shape {tensors[name].shape}, but needs one value a row.")
        if tensors[name].dtype.kind == "f":
            check_finite(str(path), name, tensors[name])
    return {name: tensors[name].reshape(rows) for name in recipe.slices}


def slice_scores(question: Question, answers: Answers, slices: Mapping[str, Array]) -> tuple[SliceScore, ...]:
    """Score every group; one whose rows cannot carry the metric (AUC of one class) is left out."""
    scores = []
    for name, values in slices.items():
        for group, chosen in groups(values):
            ours, theirs = (_value(question, item, chosen) for item in (answers, question.reference))
            if ours is not None and theirs is not None:
                loss = theirs - ours if question.recipe.metric.higher_is_better else ours - theirs
                figures = (round(figure, PLACES) + 0.0 for figure in (ours, theirs, loss))
                scores.append(SliceScore(name, group, int(chosen.sum()), *figures))
    return tuple(scores)


def worst_slice(scores: Sequence[SliceScore]) -> SliceScore | None:
    """Return the group that loses most, if any loses: of equal ones the first."""
    losing = [item for item in scores if item.rows >= ROWS_MIN and item.loss_abs > 0]
    return max(losing, key=lambda item: item.loss_abs, default=None)


def groups(values: Array) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield each group's name and its rows (n,): one a value, or quarters where there are many different numbers."""
    different = np.unique(values)
    if len(different) <= GROUPS_MAX or values.dtype.kind not in "iuf":
        for value in different[:GROUPS_MAX]:
            yield _name(value), values == value
        return
    edges = np.unique(np.quantile(values.astype(np.float64), [0, 0.25, 0.5, 0.75, 1]))
    for index, (low, high) in enumerate(itertools.pairwise(edges)):
        is_last = index == len(edges) - 2
        inside = (values >= low) & ((values <= high) if is_last else (values < high))
        yield f"{low:.4g} to {high:.4g}", inside


def _name(value: np.generic) -> str:
    return f"{value:g}" if value.dtype.kind in "iuf" else str(value)


def _value(question: Question, answers: Answers, chosen: npt.NDArray[np.bool_]) -> float | None:
    if question.fitted is None:
        return float(kept_rows(question.yardsticks, answers, question.reference)[chosen].mean())
    recipe, groups_of = question.recipe, question.groups
    lists = None if groups_of is None else groups_of[chosen]
    try:
        return task_metric(
            recipe.metric, question.scores(answers)[chosen], question.fitted.labels[chosen], lists, recipe.threshold
        )
    except DataError:
        return None
