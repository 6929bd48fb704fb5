"""What shape labels must have beside a model's answers, and both brought into one form. Pure."""

import enum
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array

Shape = tuple[int, ...]  # -1 is a free axis

_PROBABILITY_SUM_TOLERANCE = 1e-2  # answers of int8 files add up to 1 only so closely


class Form(enum.Enum):
    """How a model's answers stand to the labels."""

    CLASSES = "one score a class on the last axis"
    ONE_HOT = "one score a class on the last axis, labels too"
    ONE_SCORE = "one score a label"
    TWO_COLUMNS = "two columns, the second for class 1"


@dataclass(frozen=True)
class Fitted:
    """Labels that fit the answers: ``labels`` are class numbers or values, ``form`` says how to read the answers."""

    labels: Array
    form: Form

    def read(self, answers: Array) -> Array:
        """Return answers in the labels' form: (*labels.shape, k) for accuracy's classes, else labels.shape (+ 1)."""
        if self.form in (Form.CLASSES, Form.ONE_HOT):
            return answers
        if self.form is Form.TWO_COLUMNS:
            return answers[:, 1]
        return answers.reshape(len(answers), *self.labels.shape[1:], 1)


def fit_labels(metric: Metric, labels: Array, answers: Array) -> Fitted:
    """Bring labels (n, ...) beside a model's answers (n, ...) to one label a decision or number.

    One-hot labels become class numbers, whether the answers are probabilities or logits: number by number, a wrong
    class would hide among the many zeros that are right anyway. Raises DataError when their shape does not fit the
    answers'.
    """
    form = find_form(metric, labels.shape, answers.shape)
    if form is Form.ONE_SCORE and metric is Metric.ACCURACY and _is_one_hot(labels):
        return Fitted(labels.argmax(axis=-1), Form.ONE_HOT)
    return Fitted(labels.reshape(bare(labels.shape)), form)


def find_form(metric: Metric, labels: Shape, answers: Shape) -> Form:
    """Tell how answers of one shape are read beside labels of another; raises DataError when they do not fit."""
    if metric is Metric.AUC or metric.is_ranking:
        if len(bare(labels)) == 1 and len(bare(answers)) == 1:
            return Form.ONE_SCORE
        if len(bare(labels)) == 1 and len(answers) == 2 and answers[1] == 2 and metric is Metric.AUC:
            return Form.TWO_COLUMNS
    elif _alike(bare(labels), bare(answers)):
        return Form.ONE_SCORE
    elif metric is Metric.ACCURACY and len(answers) > 1 and _alike(bare(labels), answers[:-1]):
        return Form.CLASSES
    wanted = "one score a row" if metric is Metric.AUC or metric.is_ranking else _wanted(metric, answers)
    raise DataError(
        f"y has shape {_text(labels)} and the model answers in shape {_text(answers)}: {metric} needs {wanted}; "
        "give labels of that shape, or name another output or metric."
    )


def are_probabilities(scores: Array) -> bool:
    """Tell whether the last axis holds the probabilities of two or more classes: within 0..1, adding up to 1."""
    if scores.ndim < 2 or scores.shape[-1] < 2 or scores.min() < 0 or scores.max() > 1:
        return False
    sums = scores.sum(axis=-1, dtype=np.float64)
    return bool(np.abs(sums - 1).max() <= _PROBABILITY_SUM_TOLERANCE)


def bare(shape: Shape) -> Shape:
    """Return a shape without the axes of length 1 at its end; the first axis, rows, stays."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _alike(one: Shape, other: Shape) -> bool:
    return len(one) == len(other) and all(-1 in (a, b) or a == b for a, b in zip(one[1:], other[1:], strict=True))


def _is_one_hot(labels: Array) -> bool:
    if labels.ndim < 2 or labels.shape[-1] < 2:
        return False
    numbers = np.asarray(labels, np.float64)
    return bool(np.isin(numbers, (0, 1)).all() and (numbers.sum(axis=-1) == 1).all())


def _wanted(metric: Metric, answers: Shape) -> str:
    whole = _text(bare(answers))
    classes = f"labels of shape {_text(answers[:-1])} (class numbers) or {whole}"
    return classes if metric is Metric.ACCURACY and len(bare(answers)) > 1 else f"labels of shape {whole}"


def _text(shape: Shape) -> str:
    axes = ["n" if axis == -1 else str(axis) for axis in shape]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"
