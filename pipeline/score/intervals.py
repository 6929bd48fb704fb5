"""Paired bootstrap: how far the loss against the reference could be chance.

The same resampled rows (whole lists for rankings) are drawn for both models, so what they share cancels out. The
interval is the percentile interval (Efron & Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). A resample is
a vector of row weights; one sort then serves every resample of AUC.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array
from pipeline.score.metrics import Floats, binary, column, gains, squared_errors

RESAMPLES = 1000
_CELLS_AT_ONCE = 4_000_000
_CELLS_KEPT = 40_000_000  # one byte each

Weights = npt.NDArray[np.float64]
# Row weights (r, n) of r resamples to the metric of each (r,); NaN where a resample cannot carry the metric.
Weighted = Callable[[Weights], Floats]


@dataclass(frozen=True)
class Draws:
    """The seeded resamples of one split: drawn once where they fit into memory, for all of its candidates."""

    units: int
    seed: int

    def apply(self, weighted: Weighted) -> Floats:
        """Return a metric on every resample, shape (1000,); equal draws resample the same rows for every model."""
        fits = self.units * RESAMPLES <= _CELLS_KEPT
        blocks = self._kept if fits else resamples(self.units, self.seed)
        return np.concatenate([weighted(block.astype(np.float64)) for block in blocks])

    @cached_property
    def _kept(self) -> list[npt.NDArray[np.uint8]]:
        return list(resamples(self.units, self.seed))


def weighted_metric(
    metric: Metric, scores: Array, labels: Array, groups: Array | None, threshold: float
) -> tuple[Weighted, int]:
    """Return the metric as a function of resampling weights, and how many units (rows, or lists) are resampled."""
    if metric is Metric.AUC:
        return _weighted_auc(column(scores), binary(labels)), len(labels)
    if metric is Metric.RMSE:
        squares = weighted_mean(squared_errors(scores, labels))
        return lambda weights: np.sqrt(squares(weights)), len(labels)
    each = gains(metric, scores, labels, groups, threshold)
    return weighted_mean(each), len(each)


def weighted_mean(each: Floats) -> Weighted:
    """Return the mean of what each unit gives (n,) as a function of resampling weights."""
    return lambda weights: np.asarray(weights @ each / weights.sum(axis=1))


def percentiles(losses: Floats, confidence: float) -> tuple[float, float]:
    """Return the (low, high) ends of the two-sided interval of resampled losses.

    Resamples that cannot carry the metric (AUC with one class) are NaN and left out.
    """
    tail = (1.0 - confidence) / 2
    low, high = np.nanquantile(losses, [tail, 1.0 - tail])
    return float(low), float(high)


def resamples(units: int, seed: int) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the seeded row weights of every resample in blocks (r, units), so that memory stays bounded."""
    random = np.random.default_rng(seed)
    block = max(1, _CELLS_AT_ONCE // units)
    for start in range(0, RESAMPLES, block):
        count = min(block, RESAMPLES - start)
        drawn = random.integers(0, units, (count, units))
        flat = (drawn + np.arange(count)[:, None] * units).ravel()
        # A row is drawn more than 255 times in no resample: the chance is below 1e-500.
        yield np.bincount(flat, minlength=count * units).reshape(count, units).astype(np.uint8)


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
