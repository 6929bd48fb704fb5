"""Synthetic rows in the likeness of real ones: bundles travel, people's rows must not."""

import numpy as np
import numpy.typing as npt

from pipeline.core.tensors import Array, Tensors

_ROWS_READ_MAX = 4096
_FEW_VALUES = 32
_TAIL = 0.01


def synthetic_rows(calibration: Tensors, rows: int, seed: int) -> dict[str, Array]:
    """Draw ``rows`` rows, each column on its own from its marginal in the calibration rows.

    Integers are uniform over the observed range; numbers with at most 32 distinct values are drawn among these;
    other numbers are interpolated between neighbouring quantiles and stay clear of the outermost 1 %, so that
    neither a real row nor a rare value travels. Equal inputs and seed give equal rows.
    """
    rng = np.random.default_rng(seed)
    return {name: _like(calibration[name][:_ROWS_READ_MAX], rows, rng) for name in sorted(calibration)}


def _like(real: Array, rows: int, rng: np.random.Generator) -> Array:
    columns = np.asarray(real).reshape(real.shape[0], -1)
    drawn = _integers(columns, rows, rng) if real.dtype.kind in "iub" else _numbers(columns, rows, rng)
    return drawn.astype(real.dtype).reshape(rows, *real.shape[1:])


def _integers(columns: Array, rows: int, rng: np.random.Generator) -> Array:
    low = columns.min(axis=0).astype(np.int64)
    high = columns.max(axis=0).astype(np.int64)
    return rng.integers(low, high + 1, (rows, columns.shape[1]))


def _numbers(columns: Array, rows: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    ordered = np.sort(columns.astype(np.float64), axis=0)
    last = ordered.shape[0] - 1
    place = rng.uniform(_TAIL, 1 - _TAIL, (rows, ordered.shape[1])) * last
    below = np.take_along_axis(ordered, np.floor(place).astype(np.int64), axis=0)
    above = np.take_along_axis(ordered, np.ceil(place).astype(np.int64), axis=0)
    few = (np.diff(ordered, axis=0) != 0).sum(axis=0) < _FEW_VALUES
    return np.asarray(np.where(few, below, below + (place - np.floor(place)) * (above - below)))
