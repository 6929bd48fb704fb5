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


def spread_over_ids(calibration: Tensors, rows_max: int, seed: int) -> dict[str, Array]:
    """Draw rows whose integer columns together hold as many different numbers of their ranges as they can.

    As many rows as the widest range has numbers, at most ``rows_max``; none where no input is an integer. Other
    columns are drawn as in :func:`synthetic_rows`.
    """
    ids = {name: _flat(array) for name, array in calibration.items() if array.dtype.kind in "iu"}
    widest = max(
        (int((array.max(axis=0).astype(np.int64) - array.min(axis=0)).max()) + 1 for array in ids.values()), default=0
    )
    rows = min(rows_max, widest)
    rng = np.random.default_rng(seed)
    drawn = synthetic_rows(calibration, rows, seed + 1)
    for name in sorted(ids):
        columns = [_different(column, rows, rng) for column in ids[name].T]
        drawn[name] = np.stack(columns, axis=1).astype(drawn[name].dtype).reshape(drawn[name].shape)
    return drawn


def _flat(real: Array) -> Array:
    return np.asarray(real[:_ROWS_READ_MAX]).reshape(min(real.shape[0], _ROWS_READ_MAX), -1)


def _different(column: Array, rows: int, rng: np.random.Generator) -> Array:
    """Return numbers of a column's range, all different until the range is used up."""
    low, high = int(column.min()), int(column.max())
    numbers = low + rng.choice(high - low + 1, min(rows, high - low + 1), replace=False)
    return np.resize(numbers, rows)


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
