"""Streaming calibration of ``.onnx`` models: every float activation becomes an output, and its range is kept."""

from collections.abc import Collection, Iterable

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from pipeline.compress.schemes.calibration import ACTIVATION_BYTES_A_CALL, ROWS_A_CALL_MAX, steps
from pipeline.compress.schemes.ranges import Clipping, RangeRecorder, Ranges
from pipeline.core.errors import DataError
from pipeline.core.tensors import Array, Tensors

_ERRORS_ONLY = 3


def onnx_ranges(prepared: bytes, batches: Iterable[Tensors], clipping: Clipping = Clipping.NONE) -> Ranges:
    """Run a float ``.onnx`` model over batches of its inputs; returns the range of each float activation by name.

    Raises DataError when there are no rows, or when a row makes an activation NaN or infinite.
    """
    session = ActivationSession(prepared)
    recorder = RangeRecorder(clipping)
    rows: int | None = None
    for batch in batches:
        rows = _rows_a_call(session, batch) if rows is None else rows
        for part in steps([batch], rows):
            for name, array in [*session.run(part).items(), *part.items()]:
                if array.dtype == np.float32 and array.size:
                    recorder.add(name, array)
    return recorder.ranges()


class ActivationSession:
    """A model in onnxruntime that answers with every float activation, or with those of ``names`` alone."""

    def __init__(self, prepared: bytes, names: Collection[str] | None = None) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False  # the arena keeps the largest call's memory for ever
        options.log_severity_level = _ERRORS_ONLY
        shown = _with_activations(prepared) if names is None else _with_outputs(prepared, names)
        self._session = ort.InferenceSession(shown, options, providers=["CPUExecutionProvider"])
        shapes = [item.shape for item in self._session.get_inputs()]
        self.fixed_rows = {shape[0] for shape in shapes if shape and isinstance(shape[0], int)}

    def run(self, batch: Tensors) -> dict[str, Array]:
        """Return outputs and activations by name; raises DataError for rows that do not run through the model."""
        names = [item.name for item in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, dict(batch)), strict=True))
        except (ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.RuntimeException, RuntimeError) as error:
            brief = " ".join(str(error).split())[:200]
            raise DataError(
                f"Calibration rows do not run through the model ({brief}). Check data.calibration."
            ) from error


def _with_outputs(prepared: bytes, names: Collection[str]) -> bytes:
    """Return the model with float tensors of these names for its outputs."""
    model = onnx.load_from_string(prepared)
    del model.graph.output[:]
    for name in names:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return bytes(model.SerializeToString())


def _with_activations(prepared: bytes) -> bytes:
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


def _rows_a_call(session: ActivationSession, batch: Tensors) -> int:
    """Return the model's fixed number of rows, or as many as have room by what one row takes."""
    if session.fixed_rows:
        return max(1, min(session.fixed_rows))
    row = next(steps([batch], 1), None)
    if row is None:
        return 1
    bytes_a_row = sum(array.nbytes for array in session.run(row).values())
    return max(1, min(ROWS_A_CALL_MAX, ACTIVATION_BYTES_A_CALL // max(1, bytes_a_row)))
