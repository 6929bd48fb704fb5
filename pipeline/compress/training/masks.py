"""Which weights to keep: masks by magnitude, by two of four and by blocks, as plain arrays.

Kernels are (…, inputs, outputs). Groups of four lie along the inputs of one output: in a stored dense layer
(outputs, inputs) they are neighbours. 2:4 is what sparse tensor cores read; 1 x 4 blocks are what the sparse
fully-connected kernel of LiteRT reads, and sixteen zero bytes in a row compress better than four times four.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

GROUP = 4

Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[Any]


def magnitude_mask(weights: Weights, sparsity: float) -> Mask:
    """Keep the largest weights: ``round((1 - sparsity) * size)`` of them, at least one."""
    return _largest(np.abs(weights), sparsity)


def two_of_four_mask(weights: Weights) -> Mask:
    """Keep the two largest of every four weights along the inputs; inputs must be a multiple of four."""
    groups = _in_groups(np.abs(weights))
    order = np.argsort(-groups, axis=-2, kind="stable")
    kept = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(kept, order[..., : GROUP // 2, :], True, axis=-2)
    return kept.reshape(weights.shape)


def block_mask(weights: Weights, sparsity: float) -> Mask:
    """Keep the blocks of four weights along the inputs with the largest sums of magnitudes."""
    groups = _in_groups(np.abs(weights))
    kept = _largest(groups.sum(axis=-2), sparsity)
    return np.repeat(kept[..., None, :], GROUP, axis=-2).reshape(weights.shape)


def _in_groups(values: Weights) -> Weights:
    """Return (…, inputs / 4, 4, outputs)."""
    *before, inputs, outputs = values.shape
    if inputs % GROUP:
        raise ValueError(f"{inputs} inputs are not a multiple of {GROUP}")
    return values.reshape(*before, inputs // GROUP, GROUP, outputs)


def _largest(values: Weights, sparsity: float) -> Mask:
    keep = max(1, round(values.size * (1 - sparsity)))
    kept = np.zeros(values.size, np.bool_)
    kept[np.argpartition(-values.ravel(), keep - 1)[:keep]] = True
    return kept.reshape(values.shape)
