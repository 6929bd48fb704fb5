"""Training rows, a batch at a time from the mapped file, in an order that (seed, phase, epoch) alone fixes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.compress.training.schedule import batch_bounds
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import open_split

Order = npt.NDArray[np.int64]
HELD_OUT_RATIO = 0.1


@dataclass(frozen=True)
class Batch:
    """Rows of one step: ``inputs`` in the model's order, ``labels`` (rows, k) or None, ``weights`` (rows,)."""

    inputs: tuple[Array, ...]
    labels: Array | None
    weights: Array

    @property
    def rows(self) -> int:
        """Return how many rows there are."""
        return len(self.weights)

    def part(self, start: int, stop: int) -> "Batch":
        """Return some of the rows."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Batch(tuple(values[start:stop] for values in self.inputs), labels, self.weights[start:stop])


@dataclass(frozen=True)
class Rows:
    """A mapped split, ready to be read by index; ``chosen`` are the file's rows that it is made of, None means all."""

    place: str
    inputs: Mapping[str, Array]
    dtypes: Mapping[str, np.dtype[np.generic]]
    labels: Array | None
    weights: Array | None
    names: Sequence[str]  # in the model's order
    chosen: Order | None = None

    @property
    def count(self) -> int:
        """Return how many rows there are."""
        return len(next(iter(self.inputs.values()))) if self.chosen is None else len(self.chosen)

    def can_judge(self, answers: Array) -> bool:
        """Tell whether the labels are of an output's form: (rows, k) for answers (rows, k), or a class a row."""
        if self.labels is None or answers.ndim > 2:
            return False
        width = self.labels.size // len(self.labels)
        return width in (1, answers.size // len(answers))

    def take(self, order: Order) -> Batch:
        """Read rows by index; raises DataError when they do not fit the model's types."""
        order = order if self.chosen is None else self.chosen[order]
        read = {name: np.asarray(self.inputs[name][order]) for name in self.names}
        cast = cast_tensors(read, self.dtypes, self.place)
        labels = None if self.labels is None else np.asarray(self.labels[order], np.float32).reshape(len(order), -1)
        weights = np.ones(len(order)) if self.weights is None else self.weights[order]
        return Batch(tuple(cast[name] for name in self.names), labels, np.asarray(weights, np.float32))

    def in_order(self, rows: int) -> Iterator[Batch]:
        """Yield all rows as they lie in the file."""
        for start in range(0, self.count, rows):
            yield self.take(np.arange(start, min(start + rows, self.count)))


def open_rows(path: str, dtypes: Mapping[str, np.dtype[np.generic]]) -> Rows:
    """Map a split for the inputs that ``dtypes`` names in the model's order.

    Raises DataError as ``open_split`` does.
    """
    split = open_split(Path(path), sorted(dtypes))
    return Rows(path, split.inputs, dtypes, split.labels, split.weights, tuple(dtypes))


def hold_out(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    """Part rows by chance into those to train on and a tenth that judges epochs.

    Not the validation rows: an epoch that was picked by its luck on them would be certified by the same luck.
    """
    order = np.random.default_rng(seed).permutation(rows.count)
    held = max(1, round(HELD_OUT_RATIO * rows.count))
    return replace(rows, chosen=np.sort(order[held:])), replace(rows, chosen=np.sort(order[:held]))


def shuffled(rows: int, seed: int, phase: int, epoch: int) -> Order:
    """Return the order of an epoch's rows: the same after a restart."""
    return np.random.default_rng([seed, phase, epoch]).permutation(rows)


def epoch_batches(rows: Rows, order: Order, batch_size: int, steps: int) -> Iterator[Batch]:
    """Yield an epoch's batches; within a batch rows are read in file order."""
    for step in range(steps):
        start, stop = batch_bounds(rows.count, batch_size, step)
        yield rows.take(np.sort(order[start:stop]))
