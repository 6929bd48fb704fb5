"""Splits: named arrays with labels and lists, mapped from an npz file and checked before anything reads them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array, map_npz
from pipeline.data.checks import check_finite, check_rows

LABELS = "y"
GROUPS = "group"
WEIGHTS = "weight"
SINGLE_INPUT = "x"
BESIDE_INPUTS = frozenset({LABELS, GROUPS, WEIGHTS})


@dataclass(frozen=True)
class Split:
    """Rows of one split. ``inputs``: arrays by input name, first axis n. Groups and weights: (n,), if there are any.

    ``labels``: (n,), or (n, ...) where a row has several, as an autoencoder's. ``weights`` say how much a row counts
    in training; scores ignore them. ``slices``: arrays (n,), of numbers or text, that name groups of rows.
    """

    inputs: dict[str, Array]
    labels: Array | None
    groups: Array | None
    weights: Array | None = None
    slices: dict[str, Array] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Return the row count n, at least 1."""
        return len(next(iter(self.inputs.values())))


def open_split(path: Path, input_names: Sequence[str], slices: Sequence[str] = ()) -> Split:
    """Map the npz at ``path`` read-only and pick the model's inputs, ``y``, ``group``, ``weight`` and ``slices``.

    A model with one input also takes it by the name ``x``. Raises DataError when the file, an input or a slice is
    missing, row counts differ, there are no rows, a row holds NaN or infinity, or a group, weight or slice is not one
    value a row. Labels (n, 1) become (n,).
    """
    tensors = map_npz(path, DataError)
    inputs = {name: _input(path, tensors, name, len(input_names) == 1) for name in input_names}
    beside = {key: tensors[key] for key in sorted(BESIDE_INPUTS) if key in tensors and key not in inputs}
    cuts = {name: _slice(path, tensors, name) for name in slices}
    named = {**inputs, **beside}
    check_rows(str(path), {**cuts, **named})
    for name, array in named.items():
        check_finite(str(path), name, array)
    flat = {key: _one_a_row(path, key, array) for key, array in beside.items() if key != LABELS}
    labels = beside.get(LABELS)
    cuts = {name: _one_a_row(path, name, array) for name, array in cuts.items()}
    return Split(inputs, _flat_labels(labels), flat.get(GROUPS), flat.get(WEIGHTS), cuts)


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


def _slice(path: Path, tensors: Mapping[str, Array], name: str) -> Array:
    if name not in tensors:
        found = ", ".join(sorted(tensors)) or "nothing"
        raise DataError(f"{path} holds no array {name!r}, which slices names; it holds {found}; add or unname it.")
    return tensors[name]


def _one_a_row(path: Path, name: str, array: Array) -> Array:
    """Return a column (n, 1) as (n,)."""
    if array.size != len(array):
        raise DataError(f"{path}: {name} has shape {array.shape}, but one value a row is needed; save it as (n,).")
    return array.reshape(len(array))


def _flat_labels(labels: Array | None) -> Array | None:
    """Return (n, 1) as (n,): beside scores of another shape numpy would silently compare all rows with all."""
    return labels.reshape(len(labels)) if labels is not None and labels.size == len(labels) else labels
