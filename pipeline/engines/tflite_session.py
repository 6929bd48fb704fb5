"""What LiteRT and tflite-runtime share: one session over an interpreter, by signature names.

Both traps of converted models are met here: outputs are taken by name, never by position, and the state of a fused
LSTM or GRU is reset before every call, because it otherwise leaks from one request into the next.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pipeline.core.errors import ModelError
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Quantization, TensorSpec, count_rows, fixed_rows, run_in_steps

InterpreterFactory = Callable[[bytes], Any]

_MAGIC = b"TFL3"
_DEFAULT_SIGNATURE = "serving_default"


class TfliteSession:
    """A ``.tflite`` model in one interpreter; not safe to share between threads."""

    def __init__(self, model: bytes, make_interpreter: InterpreterFactory) -> None:
        self._model = model  # the interpreter reads these bytes for as long as it lives
        self._interpreter = _load(model, make_interpreter)
        self._call = _by_signature(self._interpreter) or _TensorCall(self._interpreter)
        self._fixed_rows = fixed_rows(_first_axes(self._call.input_details))
        self.inputs = _specs(self._call.input_details)
        self.outputs = _specs(self._call.output_details)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Predict ``n`` rows; a model exported with a fixed batch runs as many times as it takes.

        Raises DataError for inputs that do not fit, ModelError when the model cannot be run.
        """
        rows = count_rows(self.inputs, inputs)
        return run_in_steps(self._invoke, inputs, rows, self._fixed_rows)

    def _invoke(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        try:
            self._interpreter.reset_all_variables()
            return self._call(inputs)
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"The tflite model cannot be run ({_brief(error)}); convert it again.") from error


class _SignatureCall:
    """Calls a signature of the model by its own input and output names."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self.input_details: dict[str, Any] = runner.get_input_details()
        self.output_details: dict[str, Any] = runner.get_output_details()

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(self._runner(**inputs))


class _TensorCall:
    """Calls a model without signatures by its tensors' names."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self.input_details = {detail["name"]: detail for detail in interpreter.get_input_details()}
        self.output_details = {detail["name"]: detail for detail in interpreter.get_output_details()}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self._interpreter.resize_tensor_input(self.input_details[name]["index"], shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name, array in inputs.items():
            self._interpreter.set_tensor(self.input_details[name]["index"], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(d["index"]) for name, d in self.output_details.items()}


def _load(model: bytes, make_interpreter: InterpreterFactory) -> Any:
    if model[4:8] != _MAGIC:
        raise ModelError("This is not a tflite model: its bytes do not begin as one; convert the model again.")
    try:
        interpreter = make_interpreter(model)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"The tflite model cannot be loaded ({_brief(error)}); convert it again.") from error
    return interpreter


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def _by_signature(interpreter: Any) -> _SignatureCall | None:
    names = sorted(interpreter.get_signature_list())
    if not names:
        return None
    if _DEFAULT_SIGNATURE not in names and len(names) > 1:
        raise ModelError(f"The model has the signatures {', '.join(names)}; call the one to use {_DEFAULT_SIGNATURE}.")
    chosen = _DEFAULT_SIGNATURE if _DEFAULT_SIGNATURE in names else names[0]
    return _SignatureCall(interpreter.get_signature_runner(chosen))


def _declared_shape(detail: Mapping[str, Any]) -> list[int]:
    shape = [int(axis) for axis in detail["shape"]]
    signature = [int(axis) for axis in detail.get("shape_signature", ())]
    return signature if len(signature) == len(shape) else shape


def _first_axes(details: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return {name: (_declared_shape(detail) or [0])[0] for name, detail in details.items()}


def _specs(details: Mapping[str, Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, details[name]) for name in sorted(details))


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    shape = (-1, *_declared_shape(detail)[1:])
    return TensorSpec(name, np.dtype(detail["dtype"]).name, shape, _quantization(detail))


def _quantization(detail: Mapping[str, Any]) -> Quantization | None:
    parameters = detail["quantization_parameters"]
    if len(parameters["scales"]) != 1:
        return None
    return Quantization(float(parameters["scales"][0]), int(parameters["zero_points"][0]))
