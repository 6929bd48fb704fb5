"""How a candidate's decisions differ from the reference's: flips, calibration, the head of ranked lists."""

import numpy as np
import numpy.typing as npt

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array
from pipeline.score.metrics import TOP, Floats, Lists, column, decisions, lists_of
from pipeline.score.scorecard import PLACES, Decision

BINS = 15


def compare_decisions(
    metric: Metric, scores: Array, reference: Array, labels: Array, groups: Array | None, threshold: float
) -> Decision:
    """Compare the decisions that follow from ``scores`` with those of ``reference``, both of one shape.

    Rankings get the top-10 overlap, classifications the flips and, where scores are probabilities, the calibration
    error; a regression decides nothing.
    """
    if metric is Metric.RMSE:
        return Decision()
    if metric.is_ranking:
        lists = lists_of(groups, len(labels))
        return Decision(top10_overlap=round(top_overlap(column(scores), column(reference), lists), PLACES))
    flips = float(np.mean(decisions(scores, threshold) != decisions(reference, threshold)))
    return Decision(round(flips, PLACES), calibration_error(scores, labels), calibration_error(reference, labels))


def calibration_error(scores: Array, labels: Array) -> float | None:
    """Return the expected calibration error over 15 equal bins of 0..1 (Guo et al., 2017), or None off 0..1.

    One column: the probability of class 1 against how often it comes. k columns: the largest against how often it
    is right.
    """
    if scores.min() < 0 or scores.max() > 1:
        return None
    labels = labels.ravel()
    if scores.ndim > 1 and scores.shape[-1] > 1:
        rows = scores.reshape(-1, scores.shape[-1])
        confidence, came = rows.max(axis=1).astype(np.float64), rows.argmax(axis=1) == labels
    else:
        confidence, came = np.asarray(scores, np.float64).ravel(), labels == 1
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(bins, confidence - came, minlength=BINS)
    return round(float(np.abs(gaps).sum() / len(labels)), PLACES)


def top_overlap(scores: Floats, reference: Floats, lists: Lists) -> float:
    """Return the mean share (0..1) of each list's ten best, by the reference, that are ten best by ``scores`` too.

    Equal scores rank in row order. Lists shorter than ten overlap wholly.
    """
    both = in_top(scores, lists) & in_top(reference, lists)
    return float(np.mean(np.add.reduceat(both.astype(np.int64), lists.starts) / np.minimum(lists.sizes, TOP)))


def in_top(scores: Floats, lists: Lists, top: int = TOP) -> npt.NDArray[np.bool_]:
    """Return booleans (n,): whether each row is among the ``top`` best of its list."""
    order = np.lexsort((-scores, lists.of_row))
    place = np.empty(len(scores), np.int64)
    place[order] = np.arange(len(scores)) - lists.starts[lists.of_row[order]]
    return np.asarray(place < top)
