"""Output guards: what no healthy answer can look like, checked on every answer before it is released."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.bundle.io_contract import IoContract, OutputRule, TensorContract
from pipeline.core.tensors import Array

# A sum of float32 probabilities is off by rounding, and by steps of 1/256 a value where they were stored in 8 bits.
_SIMPLEX_SLACK = 0.01
_ROUNDING = 1e-5
# An observed range is what calibration rows happened to reach; a rarer row may lie outside. What weights with a
# flipped exponent bit answer is off by powers of ten, so a wide margin loses little and never fails a healthy model.
_OBSERVED_MARGIN = 10.0
_FEW_VALUES = 32


@dataclass(frozen=True)
class _Expected:
    """One output: its dtype, the axes after the rows (-1 is free), its range, and whether rows sum to 1."""

    name: str
    dtype: np.dtype[np.generic]
    axes: tuple[int, ...]
    is_free: bool
    low: float
    high: float
    simplex: bool


class Guard:
    """The rules of ``io.json`` for one model's outputs."""

    def __init__(self, io: IoContract) -> None:
        rules = {rule.name: rule for rule in io.rules}
        self._expected = tuple(_expected(tensor, rules.get(tensor.name)) for tensor in io.outputs)

    def check(self, outputs: Mapping[str, Array], rows: int) -> str | None:
        """Return what is wrong with the answer to ``rows`` rows, in one sentence, or None.

        NaN and infinity, missing or surplus outputs, dtype, shape, range, and probabilities that do not sum to 1.
        """
        if len(outputs) != len(self._expected):
            return f"The answer has {len(outputs)} outputs where the model has {len(self._expected)}."
        for expected in self._expected:
            output = outputs.get(expected.name)
            problem = _missing(expected) if output is None else _problem(expected, output, rows)
            if problem is not None:
                return problem
        return None


def _expected(tensor: TensorContract, rule: OutputRule | None) -> _Expected:
    axes = tensor.shape[1:]
    low, high = _limits(rule)
    return _Expected(
        tensor.name, np.dtype(tensor.dtype), axes, -1 in axes, low, high, rule is not None and rule.simplex
    )


def _limits(rule: OutputRule | None) -> tuple[float, float]:
    """Return the range that values must lie in; every finite number where nothing is known."""
    largest = float(np.finfo(np.float64).max)
    if rule is None:
        return -largest, largest
    if rule.source == "declared":
        slack = _ROUNDING * max(abs(rule.minimum), abs(rule.maximum))
        return rule.minimum - slack, rule.maximum + slack
    reach = max(rule.maximum - rule.minimum, abs(rule.minimum), abs(rule.maximum))
    if reach == 0:
        return -largest, largest
    return rule.minimum - _OBSERVED_MARGIN * reach, rule.maximum + _OBSERVED_MARGIN * reach


def _missing(expected: _Expected) -> str:
    return f"The answer lacks the output {expected.name!r}."


def _problem(expected: _Expected, output: Array, rows: int) -> str | None:
    shape = output.shape
    if shape != (rows, *expected.axes) and not (expected.is_free and _fits(expected.axes, shape, rows)):
        return f"The output {expected.name!r} has the shape {shape} for {rows} row(s) of {expected.axes}."
    if output.dtype != expected.dtype:
        return f"The output {expected.name!r} is {output.dtype} where {expected.dtype} was agreed."
    if output.size == 0:
        return None
    low, high = _least_and_largest(output)
    if not (expected.low <= low and high <= expected.high):  # this way round NaN fails too
        return _out_of_range(expected, low, high)
    return _sums(expected, output) if expected.simplex else None


def _least_and_largest(output: Array) -> tuple[float, float]:
    if output.size == 1:
        value = output.item()
        return value, value
    if output.size <= _FEW_VALUES:  # a handful is faster in plain Python
        values = output.reshape(-1).tolist()
        total = float(sum(values))
        return (min(values), max(values)) if math.isfinite(total) else (total, total)
    return float(np.minimum.reduce(output, axis=None)), float(np.maximum.reduce(output, axis=None))


def _fits(axes: tuple[int, ...], shape: tuple[int, ...], rows: int) -> bool:
    return (
        len(shape) == len(axes) + 1
        and shape[0] == rows
        and all(want in (-1, have) for want, have in zip(axes, shape[1:], strict=True))
    )


def _out_of_range(expected: _Expected, low: float, high: float) -> str:
    if np.isnan(low) or np.isnan(high):
        return f"The output {expected.name!r} holds NaN."
    if np.isinf(low) or np.isinf(high):
        return f"The output {expected.name!r} holds infinity."
    return (
        f"The output {expected.name!r} holds values from {low:.6g} to {high:.6g} "
        f"where {expected.low:.6g} to {expected.high:.6g} was agreed."
    )


def _sums(expected: _Expected, output: Array) -> str | None:
    sums = np.add.reduce(output, axis=-1, dtype=np.float64)
    worst = float(sums.item() if sums.size == 1 else sums.flat[int(np.abs(sums - 1).argmax())])
    if abs(worst - 1) <= _SIMPLEX_SLACK:
        return None
    return f"The output {expected.name!r} holds probabilities of a row that sum to {worst:.6g}, not 1."
