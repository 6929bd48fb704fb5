"""Few distinct weights: one-dimensional k-means as plain arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt

_ROUNDS = 100

Weights = npt.NDArray[Any]
Indices = npt.NDArray[np.int32]


def centroids(values: Weights, count: int) -> npt.NDArray[np.float64]:
    """Return at most ``count`` ascending values that stand for ``values`` (not empty), by Lloyd's iteration.

    It starts half way between equal shares and equal distances: the first alone loses large weights, the second
    spends most centroids on a few of them. No randomness: equal values give equal centroids.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=None)
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        return distinct
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    found = (_by_share(ordered, count) + np.linspace(ordered[0], ordered[-1], count)) / 2
    for _ in range(_ROUNDS):
        edges = np.concatenate([[0], np.searchsorted(ordered, (found[1:] + found[:-1]) / 2), [len(ordered)]])
        sizes = np.diff(edges)
        means = np.where(sizes > 0, np.diff(sums[edges]) / np.maximum(sizes, 1), found)
        if np.array_equal(means, found):
            break
        found = np.sort(means)
    return found


def assign(weights: Weights, count: int, keep_zeros: bool) -> Indices:
    """Return the cluster (0..count-1) of each weight; with ``keep_zeros`` cluster 0 holds the zeros and only them."""
    zeros = (weights == 0) if keep_zeros else np.zeros(weights.shape, np.bool_)
    first = int(zeros.any())
    found = np.zeros(weights.shape, np.int32)
    rest = weights[~zeros]
    if rest.size:
        found[~zeros] = first + _nearest(rest, centroids(rest, count - first))
    return found


def distinct_count(weights: Weights) -> int:
    """Return how many different values a tensor holds."""
    return len(np.unique(weights))


def _nearest(values: Weights, ascending: npt.NDArray[np.float64]) -> Indices:
    return np.searchsorted((ascending[1:] + ascending[:-1]) / 2, np.asarray(values, np.float64)).astype(np.int32)


def _by_share(ordered: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    places = (np.arange(count) + 0.5) / count * (len(ordered) - 1)
    return ordered[places.astype(np.int64)]
