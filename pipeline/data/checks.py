"""What every array of rows must be, whoever brings it: a rows axis, one row count, finite numbers."""

from collections.abc import Mapping

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array

# Rows checked for NaN at a time: a mapped file larger than memory must stay readable.
_ROWS_A_LOOK = 1 << 14


def check_rows(place: str, named: Mapping[str, Array]) -> None:
    """Raise DataError when an array has no rows axis, row counts differ, or there are no rows."""
    scalars = sorted(name for name, array in named.items() if array.ndim == 0)
    if scalars:
        raise DataError(f"{place}: {', '.join(scalars)} has no rows axis; the first axis of every array counts rows.")
    counts = {name: len(array) for name, array in sorted(named.items())}
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{place}: the arrays have different row counts ({listing}); give each one entry a row.")
    if not all(counts.values()) or not counts:
        raise DataError(f"{place} holds no rows; at least one is needed.")


def check_finite(place: str, name: str, array: Array) -> None:
    """Raise DataError when an array holds no numbers, or NaN or infinity: says how many rows and which is the first."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"{place}: {name} holds {array.dtype}, not numbers; convert it to float32 or int32.")
    if array.dtype.kind != "f":
        return
    first, count = None, 0
    for start in range(0, len(array), _ROWS_A_LOOK):
        part = array[start : start + _ROWS_A_LOOK]
        bad = np.flatnonzero(~np.isfinite(part).all(axis=tuple(range(1, part.ndim))))
        if bad.size and first is None:
            first = start + int(bad[0])
        count += bad.size
    if first is not None:
        raise DataError(
            f"{place}: {count} of {len(array)} rows of {name} hold NaN or infinity, the first is row {first}; "
            "fill or drop them."
        )
