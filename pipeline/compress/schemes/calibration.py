"""Streaming calibration: the range of every activation of a float model over all calibration rows.

A moving average of ranges, the quantizer's own way, learnt maxima of 0.29 to 0.73 of the true ones; what lies above
is clipped. Here the range is true, or clipped on purpose. Memory is bounded by cutting the rows to calls whose
activations fit in 64 MB.
"""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.compress.schemes.ranges import Clipping, Range, RangeRecorder, Ranges
from pipeline.compress.schemes.tflite_file import constant_of, parse_tflite, text_of
from pipeline.core.errors import DataError, ModelError
from pipeline.core.tensors import Tensors
from pipeline.engines.tflite_session import TfliteSession

__all__ = ["Clipping", "Range", "Ranges", "activation_ranges", "keeping_interpreter", "rows_a_call", "steps"]
ACTIVATION_BYTES_A_CALL = 64 * 2**20
ROWS_A_CALL_MAX = 256


def activation_ranges(model: bytes, batches: Iterable[Tensors], clipping: Clipping = Clipping.NONE) -> Ranges:
    """Run a float ``.tflite`` model over batches of its inputs; returns the range of each float activation by name.

    Activations of inner graphs (loop bodies) are left out: only their last turn could be read.
    Raises DataError when there are no rows, or when a row makes an activation NaN or infinite.
    """
    interpreter = keeping_interpreter(model)
    session = TfliteSession(model, lambda _: interpreter)
    names = _activations(model, interpreter)
    recorder = RangeRecorder(clipping)
    for batch in steps(batches, rows_a_call(interpreter)):
        _run(session, batch)
        for index, name in names.items():
            values = held(interpreter, index)
            if values is not None and values.size:
                recorder.add(name, values)
    return recorder.ranges()


def steps(batches: Iterable[Tensors], rows: int) -> Iterator[Tensors]:
    """Cut batches to calls of at most ``rows`` rows, because only the last call's activations can be read."""
    for batch in batches:
        for start in range(0, len(next(iter(batch.values()))), rows):
            yield {name: array[start : start + rows] for name, array in batch.items()}


def _run(session: TfliteSession, batch: Tensors) -> None:
    try:
        session.run(batch)
    except ModelError as error:  # the model was loaded: a row is at fault, an id beyond its table for example
        raise DataError(f"Calibration rows do not run through the model: {error} Check data.calibration.") from error


def keeping_interpreter(model: bytes) -> Any:
    """Make an interpreter that keeps every intermediate tensor; delegates would hide them inside fused kernels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that keeping them costs memory; a call's rows are bounded
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


def held(interpreter: Any, index: int) -> Any | None:
    """Return a tensor's values after a call, or None where it has none: results of a loop that nobody reads."""
    try:
        return interpreter.get_tensor(index)
    except ValueError:
        return None


def rows_a_call(interpreter: Any) -> int:
    """Return the model's fixed number of rows, or as many as have room; unresized, a free batch is one row."""
    fixed = {int(detail["shape_signature"][0]) for detail in interpreter.get_input_details()} - {-1}
    if fixed:
        return max(1, min(fixed))
    bytes_a_row = sum(4 * int(np.prod(detail["shape"])) for detail in interpreter.get_tensor_details())
    return max(1, min(ROWS_A_CALL_MAX, ACTIVATION_BYTES_A_CALL // max(1, bytes_a_row)))
