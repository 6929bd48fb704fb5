"""Paired bootstrap: how far the loss against the reference could be chance.

The same resampled rows (whole lists for rankings) are drawn for both models, so what they share cancels out. The
interval is the percentile interval (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). A resample is
a vector of row weights; one sort then serves every resample of AUC.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array
from pipeline.score.metrics import Floats, binary, column, correct, list_gains, squared_errors

RESAMPLES = 1000
CONFIDENCE = 0.9
_CELLS_AT_ONCE = 4_000_000

Weights = npt.NDArray[np.float64]
# Row weights (r, n) of r resamples to the metric of each (r,); NaN where a resample cannot carry the metric.
Weighted = Callable[[Weights], Floats]


def weighted_metric(
    metric: Metric, scores: Array, labels: Array, groups: Array | None, threshold: float
) -> tuple[Weighted, int]:
    """Return the metric as a function of resampling weights, and how many units (rows, or lists) are resampled."""
    if metric is Metric.AUC:
        return _weighted_auc(column(scores), binary(labels)), len(labels)
    if metric is Metric.RMSE:
        squares = _weighted_mean(squared_errors(scores, labels))
        return lambda weights: np.sqrt(squares(weights)), len(labels)
    gains = correct(scores, labels, threshold) if not metric.is_ranking else list_gains(metric, scores, labels, groups)
    return _weighted_mean(gains), len(gains)


def resampled(
    metric: Metric, scores: Array, labels: Array, groups: Array | None, threshold: float, seed: int
) -> Floats:
    """Return the metric of every resample, shape (1000,); an equal seed draws the same rows for every model."""
    weighted, units = weighted_metric(metric, scores, labels, groups, threshold)
    return np.concatenate([weighted(weights) for weights in resamples(units, seed)])


def loss_interval(metric: Metric, candidate: Floats, reference: Floats) -> tuple[float, float]:
    """Return the (low, high) ends of the 90 % interval of the candidate's loss from both models' resampled metrics.

    Above 0 is worse than the reference, whatever the metric's direction. Resamples that cannot carry the metric (AUC
    with one class) are left out.
    """
    losses = reference - candidate if metric.higher_is_better else candidate - reference
    tail = (1.0 - CONFIDENCE) / 2
    low, high = np.nanquantile(losses, [tail, 1.0 - tail])
    return float(low), float(high)


def resamples(units: int, seed: int) -> Iterator[Weights]:
    """Yield the seeded row weights of every resample in blocks (r, units), so that memory stays bounded."""
    random = np.random.default_rng(seed)
    block = max(1, _CELLS_AT_ONCE // units)
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        drawn = random.integers(0, units, (count, units))
        flat = (drawn + np.arange(count)[:, None] * units).ravel()
        yield np.bincount(flat, minlength=count * units).reshape(count, units).astype(np.float64)


def _weighted_mean(gains: Floats) -> Weighted:
    return lambda weights: np.asarray(weights @ gains / weights.sum(axis=1))


def _weighted_auc(scores: Floats, positive: npt.NDArray[np.bool_]) -> Weighted:
    negatives = np.flatnonzero(~positive)[np.argsort(scores[~positive], kind="stable")]
    positives = np.flatnonzero(positive)
    below = np.searchsorted(scores[negatives], scores[positives], "left")
    not_above = np.searchsorted(scores[negatives], scores[positives], "right")

    def area(weights: Weights) -> Floats:
        of_positives = weights[:, positives]
        passed = np.zeros((len(weights), negatives.size + 1))
        np.cumsum(weights[:, negatives], axis=1, out=passed[:, 1:])
        beaten = np.einsum("rp,rp->r", of_positives, passed[:, below] + passed[:, not_above]) / 2
        with np.errstate(invalid="ignore"):
            return np.asarray(beaten / (of_positives.sum(axis=1) * passed[:, -1]))

    return area
