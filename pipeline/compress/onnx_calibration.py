"""Streaming calibration of ``.onnx`` models: every float activation becomes an output, and its range is kept."""

from collections.abc import Iterable

import numpy as np
import onnx

from pipeline.compress.calibration import ACTIVATION_BYTES_A_CALL, ROWS_A_CALL_MAX, steps
from pipeline.compress.ranges import Clipping, RangeRecorder, Ranges
from pipeline.core.errors import DataError, ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session
from pipeline.engines.open import open_session


def onnx_ranges(prepared: bytes, batches: Iterable[Tensors], clipping: Clipping = Clipping.NONE) -> Ranges:
    """Run a float ``.onnx`` model over batches of its inputs; returns the range of each float activation by name.

    Raises DataError when there are no rows, or when a row makes an activation NaN or infinite.
    """
    session = open_session(Format.ONNX, with_activations(prepared))
    recorder = RangeRecorder(clipping)
    rows: int | None = None
    for batch in batches:
        rows = _rows_a_call(session, batch) if rows is None else rows
        for part in steps([batch], rows):
            for name, array in [*_run(session, part).items(), *part.items()]:
                if array.dtype == np.float32 and array.size:
                    recorder.add(name, array)
    return recorder.ranges()


def with_activations(prepared: bytes) -> bytes:
    """Return the model with every intermediate float tensor among its outputs."""
    model = onnx.load_from_string(prepared)
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {item.name: item.type.tensor_type.elem_type for item in inferred.graph.value_info}
    known = {item.name for item in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known and types.get(name) == onnx.TensorProto.FLOAT:
                model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def _run(session: Session, batch: Tensors) -> dict[str, Array]:
    try:
        return session.run(batch)
    except ModelError as error:
        raise DataError(f"Calibration rows do not run through the model: {error} Check data.calibration.") from error


def _rows_a_call(session: Session, batch: Tensors) -> int:
    """Return the model's fixed number of rows, or as many as have room by what one row takes."""
    fixed = {spec.shape[0] for spec in session.inputs if spec.shape} - {-1}
    if fixed:
        return max(1, min(fixed))
    row = next(steps([batch], 1), None)
    if row is None:
        return 1
    bytes_a_row = sum(array.nbytes for array in _run(session, row).values())
    return max(1, min(ROWS_A_CALL_MAX, ACTIVATION_BYTES_A_CALL // max(1, bytes_a_row)))
