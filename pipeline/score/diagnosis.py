"""What exactly a candidate does otherwise than the float model: which tensors, which rows, which groups of rows.

Written beside the scorecard for people who look for a cause; nothing is decided by it and no bundle carries it.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt

from pipeline.core.recipe import Metric
from pipeline.core.schema import Rule
from pipeline.score.metrics import TOP, binary, column, decisions, lists_of, positive_ranks
from pipeline.score.task import Answers, Question

ROWS_NAMED = 20
TENSORS_NAMED = 12

Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TensorNoise:
    """One tensor between two operators, against the same tensor of the float export of the same variant."""

    name: str
    kind: Annotated[str, Rule("The operator that makes it.")]
    snr_db: Annotated[float, Rule("Signal to quantization noise, within ±150; smaller is worse.")]
    saturated_ratio: Annotated[
        float | None, Rule("Share of float values beyond its stored range; absent: stored as floats.")
    ] = None


@dataclass(frozen=True)
class Tensors:
    """The tensors with the most noise."""

    worst: Annotated[tuple[TensorNoise, ...], Rule("The worst first.")]
    compared: int
    rows: int
    why_none: Annotated[str | None, Rule("Why none were compared.")] = None


@dataclass(frozen=True)
class Changes:
    """Rows (lists of a ranking) that are decided otherwise than by the float reference."""

    flipped: Annotated[int, Rule("How many, of `units`.")]
    units: int
    named: Annotated[tuple[int, ...], Rule("The numbers of the first of them, counted from 0.")]
    right_to_wrong: Annotated[int | None, Rule("Decisions that were right and are wrong; absent without labels.")] = (
        None
    )
    wrong_to_right: Annotated[int | None, Rule("Decisions that were wrong and are right.")] = None


@dataclass(frozen=True)
class SliceScore:
    """The metric on one group of rows."""

    slice: Annotated[str, Rule("The array of the data that names the groups.")]
    group: Annotated[str, Rule("Its value, or the range of its values.")]
    rows: int
    value: float
    reference_value: float
    loss_abs: float


@dataclass(frozen=True)
class Diagnosis:
    """The findings about one candidate (``<candidate>.diagnosis.json``)."""

    model: str
    candidate: str
    tensors: Tensors
    changes: Annotated[Changes | None, Rule("Absent where nothing is decided.")] = None
    slices: tuple[SliceScore, ...] = ()
    worst_slice: Annotated[SliceScore | None, Rule("The group that loses most.")] = None


def diagnosis_file(candidate: str) -> str:
    """Return the name of a candidate's diagnosis file."""
    return f"{candidate}.diagnosis.json"


def changes_of(question: Question, answers: Answers) -> Changes | None:
    """Return the changed decisions; None for numbers, which decide nothing."""
    metric = question.recipe.metric
    if metric is Metric.RMSE:
        return None
    if metric is Metric.FIDELITY:
        return _without_labels(question, answers)
    if metric.is_ranking:
        return _changes(*(_hits(question, item) for item in (answers, question.reference)))
    return _of_classes(question, answers)


def _of_classes(question: Question, answers: Answers) -> Changes:
    threshold = question.recipe.threshold
    ours, theirs = (decisions(question.scores(item), threshold) for item in (answers, question.reference))
    labels = question.fitted.labels.reshape(ours.shape) if question.fitted is not None else theirs
    return _changes(ours == labels, theirs == labels, ours != theirs)


def _without_labels(question: Question, answers: Answers) -> Changes | None:
    deciding = [name for name, stick in question.yardsticks.items() if stick.decides]
    if not deciding:
        return None
    flipped = np.zeros(question.rows, np.bool_)
    for name in deciding:
        pair = (decisions(item[name], question.recipe.threshold) for item in (answers, question.reference))
        flipped |= _any_in_row(np.not_equal(*pair))
    return Changes(int(flipped.sum()), question.rows, _first(flipped))


def _hits(question: Question, answers: Answers) -> Booleans:
    labels = question.fitted.labels if question.fitted is not None else np.zeros(0)
    lists = lists_of(question.groups, question.rows)
    return positive_ranks(column(question.scores(answers)), binary(labels), lists) <= TOP


def _changes(ours_right: Booleans, theirs_right: Booleans, differ: Booleans | None = None) -> Changes:
    """Compare what is right, per decision; without ``differ`` those differ where one is right and one is wrong."""
    flipped = _any_in_row(ours_right != theirs_right if differ is None else differ)
    return Changes(
        flipped=int(flipped.sum()),
        units=len(flipped),
        named=_first(flipped),
        right_to_wrong=int((theirs_right & ~ours_right).sum()),
        wrong_to_right=int((ours_right & ~theirs_right).sum()),
    )


def _any_in_row(changed: Booleans) -> Booleans:
    return np.asarray(changed.reshape(len(changed), -1).any(axis=1))


def _first(flipped: Booleans) -> tuple[int, ...]:
    return tuple(int(row) for row in np.flatnonzero(flipped)[:ROWS_NAMED])
