"""Streaming calibration: the true smallest and largest value of every activation, over all calibration rows.

A moving average of ranges, the quantizer's own way, learnt maxima of 0.29 to 0.73 of the true ones; what lies above
is clipped. The true range needs no more memory than one batch.
"""

import enum
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.compress.tflite_file import constant_of, parse_tflite, text_of
from pipeline.core.errors import DataError, ModelError
from pipeline.core.tensors import Tensors
from pipeline.engines.tflite_session import TfliteSession


class Clipping(enum.StrEnum):
    """How much of an activation's range is kept: all, all but rare extremes, or what rounds with the least error."""

    NONE = "none"
    PERCENTILE = "percentile"
    MSE = "mse"


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value that an activation took."""

    low: float
    high: float

    def widened(self, other: "Range") -> "Range":
        """Return the range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


Ranges = dict[str, Range]


def activation_ranges(model: bytes, batches: Iterable[Tensors], clipping: Clipping = Clipping.NONE) -> Ranges:
    """Run a float ``.tflite`` model over batches of its inputs; returns the range of each float activation by name.

    Raises DataError when there are no rows, or when a row makes an activation NaN or infinite.
    """
    interpreter = _keeping_interpreter(model)
    session = TfliteSession(model, lambda _: interpreter)
    names = _activations(model, interpreter)
    ranges: Ranges = {}
    for batch in _steps(batches, _rows_a_call(interpreter)):
        _run(session, batch)
        for index, name in names.items():
            found = _range(interpreter.get_tensor(index), name)
            ranges[name] = found.widened(ranges.get(name, found))
    if not ranges:
        raise DataError("Calibration needs at least one row, and there is none; check data.calibration of the recipe.")
    return ranges


def _run(session: TfliteSession, batch: Tensors) -> None:
    try:
        session.run(batch)
    except ModelError as error:  # the model was loaded: a row is at fault, an id beyond its table for example
        raise DataError(f"Calibration rows do not run through the model: {error} Check data.calibration.") from error


def _keeping_interpreter(model: bytes) -> Any:
    """Make an interpreter that keeps every intermediate tensor; delegates would hide them inside fused kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that keeping them costs memory; a batch is bounded
        return Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )


def _activations(model: bytes, interpreter: Any) -> dict[int, str]:
    parsed = parse_tflite(model)
    computed = {text_of(t.name) for t in parsed.subgraphs[0].tensors if constant_of(parsed, t) is None}
    return {
        detail["index"]: detail["name"]
        for detail in interpreter.get_tensor_details()
        if detail["dtype"] is np.float32 and detail["name"] in computed
    }


def _rows_a_call(interpreter: Any) -> int | None:
    fixed = {int(detail["shape_signature"][0]) for detail in interpreter.get_input_details()} - {-1}
    return min(fixed) if fixed else None


def _steps(batches: Iterable[Tensors], rows: int | None) -> Iterator[Tensors]:
    """Cut batches to the model's fixed number of rows, because only the last call's activations can be read."""
    for batch in batches:
        total = len(next(iter(batch.values())))
        for start in range(0, total, rows or total):
            yield {name: array[start : start + (rows or total)] for name, array in batch.items()}


def _range(values: Any, name: str) -> Range:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"Calibration rows drive {name!r} to NaN or infinity; remove them from data.calibration.")
    return Range(low, high)
