"""Task metrics in plain numpy: what a model's outputs are worth against the labels.

Every ranking rule is pessimistic about ties, so a model that answers the same for every row gains nothing.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TOP = 10


@dataclass(frozen=True)
class Lists:
    """Rows of one list lie side by side: ``starts`` (g,) is each list's first row, ``of_row`` (n,) each row's list."""

    starts: Ints
    of_row: Ints
    sizes: Ints


def task_metric(
    metric: Metric, scores: Array, labels: Array, groups: Array | None = None, threshold: float = 0.5
) -> float:
    """Return the metric of ``scores`` against ``labels`` (n,), or (n, ...) for accuracy and rmse.

    ``scores`` have the labels' shape, perhaps with an axis of 1 behind; for accuracy over k classes an axis of k.
    ``groups`` (n,) names each row's list for the ranking metrics; ``threshold`` is the operating point of a binary
    accuracy. All metrics lie in 0..1 but rmse, which has the labels' unit. Raises DataError when the labels cannot
    carry the metric (one class only for AUC, a list without exactly one positive).
    """
    if metric is Metric.AUC:
        return auc(column(scores), labels)
    if metric is Metric.RMSE:
        return float(np.sqrt(np.mean(squared_errors(scores, labels))))
    return float(np.mean(gains(metric, scores, labels, groups, threshold)))


def gains(metric: Metric, scores: Array, labels: Array, groups: Array | None, threshold: float) -> Floats:
    """Return what each row (for rankings: each list) adds to a metric that is a mean: accuracy and the rankings."""
    if metric is Metric.ACCURACY:
        return correct(scores, labels, threshold)
    return list_gains(metric, scores, labels, groups)


def column(scores: Array) -> Floats:
    """Return scores of shape (n,) or (n, 1) as float64 (n,); raises DataError for several columns."""
    if scores.size != len(scores):
        raise DataError(f"The metric needs one score a row, the model gives {scores.shape}; use accuracy for classes.")
    return np.asarray(scores.reshape(len(scores)), np.float64)


def decisions(scores: Array, threshold: float) -> Ints:
    """Return the decided classes: the largest on a last axis of two or more, or whether one score reaches a threshold.

    The shape is that of ``scores`` without its last axis; scores (n,) give (n,).
    """
    if scores.ndim > 1 and scores.shape[-1] > 1:
        return np.asarray(np.argmax(scores, axis=-1), np.int64)
    flat = scores if scores.ndim == 1 else scores[..., 0]
    return np.asarray(np.asarray(flat, np.float64) >= threshold, np.int64)


def with_class_axis(scores: Array) -> Floats:
    """Return scores as float64 with a last axis for classes: (n,) becomes (n, 1)."""
    return np.asarray(scores, np.float64).reshape(scores.shape if scores.ndim > 1 else (len(scores), 1))


def correct(scores: Array, labels: Array, threshold: float) -> Floats:
    """Return the share of right decisions of each row (n,): 0.0 or 1.0 where a row has one label.

    Raises DataError for labels that are none of the classes: classes counted from 1 would only look like a bad model.
    """
    require_classes(labels, scores.shape[-1] if scores.ndim > 1 else 1)
    return row_means(decisions(scores, threshold) == labels)


def require_classes(labels: Array, scores: int) -> None:
    """Raise DataError unless all labels are classes that ``scores`` scores a decision (1: a binary one) stand for."""
    classes = max(scores, 2)
    strangers = labels[~np.isin(labels, np.arange(classes))]
    if strangers.size:
        raise DataError(
            f"Accuracy over {classes} classes needs labels of 0 to {classes - 1}; {strangers.size} of the "
            f"{labels.size} {'rows' if labels.ndim == 1 else 'labels'} hold others, such as {strangers[0]:g}."
        )


def squared_errors(scores: Array, labels: Array) -> Floats:
    """Return the mean squared error of each row (n,), in the labels' unit squared."""
    wanted = np.asarray(labels, np.float64)
    return row_means((np.asarray(scores, np.float64).reshape(wanted.shape) - wanted) ** 2)


def row_means(values: npt.NDArray[np.generic]) -> Floats:
    """Return the mean of each row (n, ...) as (n,)."""
    return np.asarray(np.asarray(values, np.float64).reshape(len(values), -1).mean(axis=1))


def auc(scores: Floats, labels: Array) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative, ties counting one half.

    Mann-Whitney U over midranks. Raises DataError when the labels hold one class only.
    """
    positive = binary(labels)
    positives = int(positive.sum())
    negatives = positive.size - positives
    if not positives or not negatives:
        raise DataError("AUC needs rows of both classes, the labels hold one only; use other rows or another metric.")
    rank_sum = float(midranks(scores)[positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def midranks(scores: Floats) -> Floats:
    """Return ranks from 1 of shape (n,); equal scores share the mean of their ranks."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)


def binary(labels: Array) -> npt.NDArray[np.bool_]:
    """Return labels as booleans (n,); raises DataError when they are not all 0 or 1."""
    strangers = labels[(labels != 0) & (labels != 1)]
    if strangers.size:
        raise DataError(
            f"The metric needs labels of 0 and 1; {strangers.size} of {labels.size} are others, such as "
            f"{strangers[0]:g}; save them as 0 and 1."
        )
    return np.asarray(labels == 1)


def lists_of(groups: Array | None, rows: int) -> Lists:
    """Find the lists in ``groups`` (n,); raises DataError when they are missing or a list's rows lie apart."""
    if groups is None:
        raise DataError("A ranking metric needs the key 'group' in the data, one list id a row; add it.")
    if groups.shape != (rows,):
        raise DataError(f"The key 'group' has shape {groups.shape}, the data have {rows} rows; give one id a row.")
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]])
    if np.unique(groups[starts]).size != starts.size:
        raise DataError("The rows of one list lie apart in 'group'; sort the data by list.")
    sizes = np.diff(np.r_[starts, rows])
    return Lists(starts, np.repeat(np.arange(starts.size), sizes), sizes)


def list_gains(metric: Metric, scores: Array, labels: Array, groups: Array | None) -> Floats:
    """Return each list's gain (g,) in 0..1: hit rate at 10, or NDCG at 10 with one relevant item (1 / log2(rank + 1)).

    Raises DataError when a list has not exactly one positive.
    """
    lists = lists_of(groups, len(labels))
    ranks = positive_ranks(column(scores), binary(labels), lists)
    inside = ranks <= TOP
    if metric is Metric.HIT_RATE_AT_10:
        return inside.astype(np.float64)
    return np.asarray(np.where(inside, 1.0 / np.log2(ranks + 1.0), 0.0), np.float64)


def positive_ranks(scores: Floats, positive: npt.NDArray[np.bool_], lists: Lists) -> Ints:
    """Return the rank from 1 of each list's one positive; rows that tie with it count as ranked before it."""
    if np.any(np.add.reduceat(positive.astype(np.int64), lists.starts) != 1):
        raise DataError("A list of the data has not exactly one positive label; hit rate and NDCG at 10 need one.")
    of_positive = scores[positive]
    return np.asarray(np.add.reduceat((scores >= of_positive[lists.of_row]).astype(np.int64), lists.starts))
