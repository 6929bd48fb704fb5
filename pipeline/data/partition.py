"""Rows dealt into the four splits by a seeded shuffle; lists of a ranking stay whole."""

import math

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array

SHARES = {"train": 0.55, "calibration": 0.05, "validation": 0.25, "test": 0.15}
_ROWS_MIN = 200  # a quarter of them must bound a loss

Rows = npt.NDArray[np.int64]


def deal(rows: int, groups: Array | None, seed: int) -> dict[str, Rows]:
    """Return the row numbers of ``train calibration validation test`` by ``SHARES``, each in ascending order.

    Rows of one ``group`` stay together. Raises DataError when there are fewer than 200 rows (or groups).
    """
    units = np.unique(groups) if groups is not None else np.arange(rows)
    if len(units) < _ROWS_MIN:
        kind = "rows" if groups is None else "lists (groups)"
        raise DataError(f"{len(units)} {kind} are too few to split in four; at least {_ROWS_MIN} are needed.")
    shuffled = np.random.default_rng(seed).permutation(units)
    edges = np.cumsum([math.floor(share * len(units)) for share in SHARES.values()])[:-1]
    parts = dict(zip(SHARES, np.split(shuffled, edges), strict=True))
    if groups is None:
        return {name: np.sort(chosen) for name, chosen in parts.items()}
    return {name: np.flatnonzero(np.isin(groups, chosen)) for name, chosen in parts.items()}
