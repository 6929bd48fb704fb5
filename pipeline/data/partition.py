"""One array file into the four splits, by a seeded shuffle; lists of a ranking stay whole."""

import math
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.files import write_atomic
from pipeline.core.tensors import Array, Tensors, encode_npz, map_npz

SHARES = {"train": 0.55, "calibration": 0.05, "validation": 0.25, "test": 0.15}
_ROWS_MIN = 200  # a quarter of them must bound a loss


def partition(tensors: Tensors, seed: int) -> dict[str, dict[str, Array]]:
    """Deal rows into ``train calibration validation test`` by ``SHARES``; rows of one ``group`` stay together.

    Raises DataError when there are fewer than 200 rows (or groups) or arrays differ in length.
    """
    counts = {array.shape[:1] for array in tensors.values()}
    if len(counts) != 1 or () in counts:
        listing = ", ".join(f"{name} {array.shape}" for name, array in sorted(tensors.items())) or "nothing"
        raise DataError(f"The arrays must have one row count as their first axis, but they are {listing}; mend them.")
    groups = tensors.get("group")
    units = np.unique(groups) if groups is not None else np.arange(counts.pop()[0])
    if len(units) < _ROWS_MIN:
        raise DataError(f"{len(units)} rows are too few to split in four; at least {_ROWS_MIN} are needed.")
    shuffled = np.random.default_rng(seed).permutation(units)
    edges = np.cumsum([math.floor(share * len(units)) for share in SHARES.values()])[:-1]
    result = {}
    for name, chosen in zip(SHARES, np.split(shuffled, edges), strict=True):
        rows = np.flatnonzero(np.isin(groups, chosen)) if groups is not None else np.sort(chosen)
        result[name] = {key: array[rows] for key, array in tensors.items()}
    return result


def write_partition(source: Path, folder: Path, seed: int) -> None:
    """Split the npz file ``source`` into ``folder``/{train,calibration,validation,test}.npz."""
    for name, tensors in partition(map_npz(source, DataError), seed).items():
        write_atomic(folder / f"{name}.npz", encode_npz(tensors))
