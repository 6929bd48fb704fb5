"""Splits: named arrays with labels and lists, mapped from an npz file and checked before anything reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array, map_npz

LABELS = "y"
GROUPS = "group"
WEIGHTS = "weight"
SINGLE_INPUT = "x"
BESIDE_INPUTS = frozenset({LABELS, GROUPS, WEIGHTS})

# Rows checked for NaN at a time: a mapped file larger than memory must stay readable.
_ROWS_A_LOOK = 1 << 16


@dataclass(frozen=True)
class Split:
    """Rows of one split: ``inputs`` by name, first axis n; ``labels`` (n,) or (n, ...); ``groups``, ``weights`` (n,).

    ``weights`` say how much a row counts in training; scores ignore them.
    """

    inputs: dict[str, Array]
    labels: Array | None
    groups: Array | None
    weights: Array | None = None

    @property
    def rows(self) -> int:
        """Return the row count n, at least 1."""
        return len(next(iter(self.inputs.values())))


def open_split(path: Path, input_names: Sequence[str]) -> Split:
    """Map the npz at ``path`` read-only and pick the model's inputs, ``y``, ``group`` and ``weight``.

    A model with one input also takes it by the name ``x``. Raises DataError when the file or an input is missing,
    row counts differ, there are no rows, a row holds NaN or infinity, or ``group`` is not one number a row. A column of
    labels (n, 1) comes back as (n,); whether labels fit the metric is for the scores to say.
    """
    tensors = map_npz(path, DataError)
    inputs = {name: _input(path, tensors, name, len(input_names) == 1) for name in input_names}
    beside = {key: tensors[key] for key in sorted(BESIDE_INPUTS) if key in tensors and key not in inputs}
    named = {**inputs, **beside}
    _check_rows(path, named)
    for name, array in named.items():
        _check_finite(path, name, array)
    labels = beside.pop(LABELS, None)
    flat = {key: _one_a_row(path, key, array) for key, array in beside.items()}
    if labels is not None and labels.size == len(labels):
        labels = labels.reshape(len(labels))
    return Split(inputs, labels, flat.get(GROUPS), flat.get(WEIGHTS))


def batches(split: Split, rows: int) -> Iterator[dict[str, Array]]:
    """Yield the inputs in order, at most ``rows`` rows at a time; the last batch may be smaller."""
    if rows < 1:
        raise DataError(f"A batch of {rows} rows cannot be made; ask for 1 or more.")
    for start in range(0, split.rows, rows):
        yield {name: array[start : start + rows] for name, array in split.inputs.items()}


def _input(path: Path, tensors: Mapping[str, Array], name: str, is_only: bool) -> Array:
    if name in tensors:
        return tensors[name]
    if is_only and SINGLE_INPUT in tensors:
        return tensors[SINGLE_INPUT]
    found = ", ".join(sorted(tensors)) or "nothing"
    raise DataError(f"{path} holds no array {name!r} for the model's input of that name; it holds {found}; add it.")


def _check_rows(path: Path, named: Mapping[str, Array]) -> None:
    scalars = sorted(name for name, array in named.items() if array.ndim == 0)
    if scalars:
        raise DataError(f"{path}: {', '.join(scalars)} has no rows axis; the first axis of every array counts rows.")
    counts = {name: len(array) for name, array in sorted(named.items())}
    if len(set(counts.values())) > 1:
        listing = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise DataError(f"{path}: the arrays have different row counts ({listing}); give each one entry a row.")
    if not all(counts.values()):
        raise DataError(f"{path} holds no rows; at least one is needed.")


def _one_a_row(path: Path, name: str, array: Array) -> Array:
    """Return a column (n, 1) as (n,); raises DataError for any other shape."""
    if array.size != len(array):
        raise DataError(f"{path}: {name} has shape {array.shape}, but one number a row is needed; save it as (n,).")
    return array.reshape(len(array))


def _check_finite(path: Path, name: str, array: Array) -> None:
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} holds {array.dtype}, not numbers; convert it to float32 or int32.")
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
            f"{path}: {count} of {len(array)} rows of {name} hold NaN or infinity, the first is row {first}; "
            "fill or drop them."
        )
