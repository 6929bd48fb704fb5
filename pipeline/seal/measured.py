"""What is measured of a model while it is sealed: golden answers, their tolerances, and what holds for its outputs."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.bundle.golden import Golden, Tolerances, largest_differences
from pipeline.bundle.io_contract import IoContract, OutputRule, TensorContract, TensorQuantization
from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session, TensorSpec
from pipeline.engines.litert import open_litert
from pipeline.engines.open import open_session

TOLERANCE_MIN = 1e-5
_SAFETY = 4
_STEPS = 2
_METHOD = (
    "The golden rows were run with 1 and 2 threads, in one batch and row by row, and for tflite with XNNPACK off; "
    "the tolerance is 4 times the largest difference, at least 1e-5, and with 8-bit activations at least two steps of "
    "1/256 of the largest golden answer, which other processors may round otherwise; rounded up to a power of two."
)
_SIMPLEX_SLACK = 1e-3


def measure_golden(model_format: Format, model: bytes, inputs: Tensors, integer_activations: bool = False) -> Golden:
    """Answer the synthetic rows and measure how far other ways of running the same bytes differ.

    ``integer_activations`` says that the model calculates in 8-bit integers, so that one machine's agreement with
    itself promises less. Raises ModelError when the model cannot be run or answers with NaN or infinity.
    """
    outputs = open_session(model_format, model).run(inputs)
    if not all(np.isfinite(array).all() for array in outputs.values()):
        raise ModelError("The model answers synthetic rows with NaN or infinity; look at its data and training.")
    spread = dict.fromkeys(outputs, 0.0)
    for answers in _other_ways(model_format, model, inputs):
        for name, difference in largest_differences(outputs, answers).items():
            spread[name] = max(spread[name], difference)
    steps = _STEPS / 256 if integer_activations else 0.0
    tolerances = {
        name: tolerance(difference, steps * float(np.abs(outputs[name]).max())) for name, difference in spread.items()
    }
    return Golden(dict(inputs), outputs, Tolerances(1, tolerances, _METHOD))


def tolerance(difference: float, least: float = 0.0) -> float:
    """Return the larger of 4 × ``difference`` and ``least`` rounded up to a power of two, at least 1e-5.

    Rounded so that a last-bit change of the measurement does not change the sealed bytes.
    """
    wanted = max(_SAFETY * difference, least)
    return max(TOLERANCE_MIN, 2.0 ** math.ceil(math.log2(wanted))) if wanted > 0 else TOLERANCE_MIN


def _other_ways(model_format: Format, model: bytes, inputs: Tensors) -> Iterator[dict[str, Array]]:
    yield open_session(model_format, model, threads=2).run(inputs)
    yield _row_by_row(open_session(model_format, model).run, inputs)
    if model_format is Format.TFLITE:
        yield open_litert(model, xnnpack=False).run(inputs)


def _row_by_row(run: Callable[[Tensors], dict[str, Array]], inputs: Tensors) -> dict[str, Array]:
    rows = next(iter(inputs.values())).shape[0]
    parts = [run({name: array[row : row + 1] for name, array in inputs.items()}) for row in range(rows)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def describe_io(session: Session, calibration: Tensors, probabilities: bool, notes: str) -> IoContract:
    """Describe a session's tensors and what holds for its outputs on the calibration rows.

    ``probabilities`` says that the task declares its outputs to be probabilities; it counts where no row disagrees.
    """
    outputs = session.run(calibration)
    return IoContract(
        schema_version=1,
        inputs=tuple(map(_tensor, session.inputs)),
        outputs=tuple(map(_tensor, session.outputs)),
        rules=tuple(output_rule(name, array, probabilities) for name, array in sorted(outputs.items())),
        notes=notes,
    )


def output_rule(name: str, values: Array, probabilities: bool) -> OutputRule:
    """Return what holds for an output: [0, 1] where declared and never broken, else the range that was observed."""
    low, high = float(values.min()), float(values.max())
    if not probabilities or low < 0 or high > 1:
        return OutputRule(name, low, high, simplex=False, source="observed")
    several = values.ndim > 1 and values.shape[-1] > 1
    simplex = several and bool(np.all(np.abs(values.sum(axis=-1, dtype=np.float64) - 1) < _SIMPLEX_SLACK))
    return OutputRule(name, 0.0, 1.0, simplex=simplex, source="declared")


def _tensor(spec: TensorSpec) -> TensorContract:
    how = spec.quantization
    quantization = None if how is None else TensorQuantization(how.scale, how.zero_point)
    return TensorContract(spec.name, spec.dtype, spec.shape, quantization)
