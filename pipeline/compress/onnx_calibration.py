"""Streaming calibration of ``.onnx`` models: every float activation becomes an output, and its range is kept."""

from collections.abc import Iterable

import numpy as np
import onnx

from pipeline.compress.calibration import Clipping, Range, Ranges
from pipeline.core.errors import DataError, ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.open import open_session


def onnx_ranges(prepared: bytes, batches: Iterable[Tensors], clipping: Clipping = Clipping.NONE) -> Ranges:
    """Run a float ``.onnx`` model over batches of its inputs; returns the range of each float activation by name.

    Raises DataError when there are no rows, or when a row makes an activation NaN or infinite.
    """
    session = open_session(Format.ONNX, _telling(prepared))
    ranges: Ranges = {}
    for batch in batches:
        try:
            values = session.run(batch)
        except ModelError as error:
            raise DataError(
                f"Calibration rows do not run through the model: {error} Check data.calibration."
            ) from error
        for name, array in [*values.items(), *batch.items()]:
            if array.dtype == np.float32 and array.size:
                found = _range(array, name)
                ranges[name] = found.widened(ranges.get(name, found))
    if not ranges:
        raise DataError("Calibration needs at least one row, and there is none; check data.calibration of the recipe.")
    return ranges


def _telling(prepared: bytes) -> bytes:
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


def _range(values: Array, name: str) -> Range:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"Calibration rows drive {name!r} to NaN or infinity; remove them from data.calibration.")
    return Range(low, high)
