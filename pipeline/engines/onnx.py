"""onnxruntime on the CPU: the ``.onnx`` engine."""

import os
from dataclasses import replace
from typing import Any

# From 1.29 on, onnxruntime reports its use to its maker unless told not to before it is imported: a node needs no
# network, and the reporting thread would make forks unsafe.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from pipeline.core.errors import ModelError
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import TensorSpec, count_rows, fixed_rows, run_in_steps

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
# onnxruntime draws its errors from Exception directly, so each kind is named.
_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    ort_errors.EPFail,
    RuntimeError,
    ValueError,
)
_ERRORS_ONLY = 3


class OnnxSession:
    """An ``.onnx`` model in one onnxruntime session."""

    def __init__(self, model: bytes, threads: int) -> None:
        try:
            self._session = ort.InferenceSession(model, _options(threads), providers=["CPUExecutionProvider"])
        except _FAILURES as error:
            raise ModelError(f"The onnx model cannot be loaded ({_brief(error)}); export it again.") from error
        declared = _specs(self._session.get_inputs())
        # An export for one row, or k, declares that number; any number of rows is answered, k at a time.
        self._fixed_rows = fixed_rows({spec.name: (spec.shape or (0,))[0] for spec in declared})
        self.inputs = tuple(_any_rows(spec) for spec in declared)
        self.outputs = tuple(_any_rows(spec) for spec in _specs(self._session.get_outputs()))

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Predict ``n`` rows; raises DataError for inputs that do not fit, ModelError when the model cannot be run."""
        return run_in_steps(self._call, inputs, count_rows(self.inputs, inputs), self._fixed_rows)

    def _call(self, inputs: Tensors) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except _FAILURES as error:
            raise ModelError(f"The onnx model cannot be run ({_brief(error)}); export it again.") from error


def open_onnx(model: bytes, threads: int = 1) -> OnnxSession:
    """Load ``.onnx`` bytes; raises ModelError when they cannot be loaded."""
    return OnnxSession(model, threads)


def _options(threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.enable_cpu_mem_arena = False  # the arena keeps the largest request's memory for ever
    options.use_deterministic_compute = True
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Weights in files beside the model would be read from the working folder, unhashed: no file is found below this.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _specs(tensors: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(tensor) for tensor in sorted(tensors, key=lambda tensor: str(tensor.name)))


def _spec(tensor: Any) -> TensorSpec:
    if tensor.type not in _DTYPES:
        raise ModelError(f"The tensor {tensor.name!r} is {tensor.type}, which is not supported; export plain tensors.")
    shape = tuple(axis if isinstance(axis, int) else -1 for axis in tensor.shape)
    return TensorSpec(tensor.name, _DTYPES[tensor.type], shape)


def _any_rows(spec: TensorSpec) -> TensorSpec:
    return replace(spec, shape=(-1, *spec.shape[1:]))
