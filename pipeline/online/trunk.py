"""The frozen layers of a ``.tflite`` model: everything below the last dense unit, and where its weights are."""

from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.bundle.learning import ITEM_BYTES, Learning, Span
from pipeline.core.errors import ModelError
from pipeline.core.tensors import Tensors
from pipeline.engines.base import count_rows
from pipeline.engines.litert import open_litert
from pipeline.online.learner import Floats
from pipeline.seal.constants import Constant
from pipeline.seal.tflite_constants import TfliteConstants

_HEAD_OPERATORS = ("FULLY_CONNECTED", "LOGISTIC")


def what_learns(model: bytes, rate: float, decay: float, weight_max: float) -> Learning:
    """Return where the last dense unit of a model file stores its weights; raises ModelError when it has none such.

    The model must end in one dense unit and a sigmoid, stored in float32.
    """
    _, weights, bias = _last_unit(_interpreter(model))
    file = TfliteConstants(model)
    named = {item.name: item for item in file.constants}
    if weights not in named or bias not in named:
        raise ModelError(f"The last dense unit's constants ({weights}, {bias}) are not in the file in float32.")
    return Learning(1, _span(file, named[weights]), _span(file, named[bias]), rate, decay, weight_max)


def _span(file: TfliteConstants, constant: Constant) -> Span:
    if constant.item_bytes != ITEM_BYTES:
        raise ModelError(f"{constant.name} is not stored in float32; learn on a float model.")
    return Span(file.start(constant), len(constant.data) // ITEM_BYTES)


class Trunk:
    """Answers rows with the inputs of the last dense unit."""

    def __init__(self, model: bytes) -> None:
        self._interpreter = _interpreter(model)
        self._activations, _, _ = _last_unit(self._interpreter)
        self.inputs = open_litert(model).inputs
        details = self._interpreter.get_input_details()
        if len(details) != 1:
            raise ModelError("The model has several inputs; online learning takes models with one.")
        self._place = details[0]["index"]
        self._shape: tuple[int, ...] = ()

    def __call__(self, rows: Tensors) -> Floats:
        """Return activations, shape (rows, units), float32; raises DataError for rows that do not fit the model."""
        count_rows(self.inputs, rows)
        array = np.ascontiguousarray(next(iter(rows.values())))
        if array.shape != self._shape:
            self._interpreter.resize_tensor_input(self._place, array.shape)
            self._interpreter.allocate_tensors()
            self._shape = array.shape
        self._interpreter.set_tensor(self._place, array)
        self._interpreter.invoke()
        return np.array(self._interpreter.get_tensor(self._activations), np.float32)


def _interpreter(model: bytes) -> Any:
    try:
        interpreter = Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ModelError("Online learning takes tflite models that LiteRT loads; pack the tflite candidate.") from error
    return interpreter


def _last_unit(interpreter: Any) -> tuple[int, str, str]:
    """Return the tensor that the last dense unit reads, and the names of its weights and bias.

    The package has no public way to ask for operators.
    """
    operators = interpreter._get_ops_details()[-2:]
    shapes = {item["index"]: item for item in interpreter.get_tensor_details()}
    if tuple(item["op_name"] for item in operators) != _HEAD_OPERATORS or len(operators[0]["inputs"]) != 3:
        raise ModelError("The model does not end in a dense unit and a sigmoid; online learning takes no other.")
    read, weights, bias = (shapes[int(index)] for index in operators[0]["inputs"])
    if int(weights["shape"][0]) != 1 or weights["dtype"] != np.float32 or bias["dtype"] != np.float32:
        raise ModelError("The model's last dense layer is not one unit in float32; online learning takes no other.")
    return int(read["index"]), str(weights["name"]), str(bias["name"])
