"""What every engine offers: named tensors in, named tensors out, any number of rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.core.errors import DataError, ModelError
from pipeline.core.tensors import Array, Tensors


@dataclass(frozen=True)
class Quantization:
    """How an integer tensor stands for real numbers: real = scale × (stored − zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name, numpy dtype name and shape; -1 is a free axis, the first axis counts rows."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: Quantization | None = None


class Session(Protocol):
    """A loaded model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs, sorted by name."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return the outputs, sorted by name."""
        ...

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Predict ``n`` rows; every array has ``n`` as its first axis.

        Raises DataError when inputs are missing or surplus, or when a dtype or shape does not fit.
        """
        ...


def count_rows(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> int:
    """Check inputs against their specs and return their number of rows.

    Raises DataError for a missing or surplus input, another dtype or shape, unequal row counts, or no rows.
    """
    problems = _name_problems(specs, inputs)
    problems += [text for spec in specs if spec.name in inputs for text in _fit_problems(spec, inputs[spec.name])]
    rows = {int(array.shape[0]) for array in inputs.values() if array.ndim > 0}
    if not problems and len(rows) != 1:
        problems.append(f"the inputs differ in their number of rows: {sorted(rows)}")
    if rows == {0}:
        problems.append("there are no rows")
    if problems:
        raise DataError(f"The inputs do not fit the model: {'; '.join(problems)}.")
    return rows.pop()


def _name_problems(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> list[str]:
    names = {spec.name for spec in specs}
    missing = [f"{name!r} is missing" for name in sorted(names - inputs.keys())]
    known = ", ".join(sorted(names))
    return missing + [f"{name!r} is not an input ({known})" for name in sorted(inputs.keys() - names)]


def _fit_problems(spec: TensorSpec, array: Array) -> list[str]:
    problems = []
    if array.dtype.name != spec.dtype:
        problems.append(f"{spec.name!r} is {array.dtype.name} where the model takes {spec.dtype}")
    fits = len(array.shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("n" if axis == -1 else str(axis) for axis in spec.shape)
        problems.append(f"{spec.name!r} has shape {array.shape} where the model takes ({wanted})")
    return problems


def pad_rows(array: Array, rows: int) -> Array:
    """Return ``array`` with its last row repeated until it has ``rows`` rows."""
    missing = rows - array.shape[0]
    return array if missing <= 0 else np.concatenate([array, np.repeat(array[-1:], missing, axis=0)])


def fixed_rows(first_axes: Mapping[str, int]) -> int | None:
    """Return the batch that a model was exported with, or None where the inputs' first axes are free (-1).

    Raises ModelError when the inputs do not share one.
    """
    if set(first_axes.values()) == {-1}:
        return None
    fixed = {axis for axis in first_axes.values() if axis != -1}
    if len(fixed) != 1 or fixed == {0}:
        listing = ", ".join(f"{name} {axis}" for name, axis in sorted(first_axes.items()))
        raise ModelError(f"The model's inputs do not share a first axis of rows ({listing}); export it with one.")
    return fixed.pop()


def run_in_steps(
    call: Callable[[Tensors], Mapping[str, Array]], inputs: Tensors, rows: int, step: int | None
) -> dict[str, Array]:
    """Answer ``rows`` rows by calls of ``step`` rows each (all at once where it is None), the last one padded.

    Raises ModelError for an output that does not have one entry a row.
    """
    step = step or rows
    parts = []
    for start in range(0, rows, step):
        part = call({name: pad_rows(array[start : start + step], step) for name, array in inputs.items()})
        for name, values in part.items():
            if values.shape[:1] != (step,):
                raise ModelError(
                    f"The model answers {step} rows with {name!r} of shape {values.shape}; every output needs one "
                    "entry a row as its first axis."
                )
        parts.append(part)
    if len(parts) == 1 and step == rows:
        return dict(parts[0])
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}
