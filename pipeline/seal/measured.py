"""What is measured of a model while it is sealed: golden answers, their tolerances, and what holds for its outputs."""

import math
from collections.abc import Callable, Collection, Iterator

import numpy as np

from pipeline.bundle.golden import FromParent, Golden, Quantiles, Tolerances, largest_differences
from pipeline.bundle.io_contract import IoContract, OutputRule, TensorContract, TensorQuantization
from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session, TensorSpec
from pipeline.engines.litert import open_litert
from pipeline.engines.open import open_session
from pipeline.score.metrics import decisions

TOLERANCE_MIN = 1e-5
_SAFETY = 4
_SAFETY_MANY = 2  # the largest of hundreds of differences is near the largest there is
_MANY_ROWS = 256
_STEPS = 2
_METHOD = (
    "The golden rows were run with 1 and 2 threads, in one batch and row by row, and for tflite with XNNPACK off; "
    "the tolerance is 4 times the largest difference (twice where there are 256 rows or more), at least 1e-5, and "
    "with 8-bit activations at least two steps of "
    "1/256 of the largest golden answer, which other processors may round otherwise; rounded up to a power of two."
)
_SIMPLEX_SLACK = 1e-3
_SHARES = (0.5, 0.9, 0.99, 0.999, 1.0)
_LAST_BITS = 1e-6


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
    safety = _SAFETY if len(next(iter(inputs.values()))) < _MANY_ROWS else _SAFETY_MANY
    tolerances = {
        name: tolerance(safety * difference, steps * float(np.abs(outputs[name]).max()))
        for name, difference in spread.items()
    }
    return Golden(dict(inputs), outputs, Tolerances(1, tolerances, _METHOD))


def tolerance(difference: float, least: float = 0.0) -> float:
    """Return the larger of ``difference`` and ``least`` rounded up to a power of two, at least 1e-5.

    Rounded so that a last-bit change of the measurement does not change the sealed bytes.
    """
    wanted = max(difference, least)
    return max(TOLERANCE_MIN, 2.0 ** math.ceil(math.log2(wanted))) if wanted > 0 else TOLERANCE_MIN


def measure_distance(
    answers: Tensors, parents: Tensors, sha256: str, threshold: float, deciding: Collection[str]
) -> FromParent:
    """Return how far a candidate's answers are from those of its float parent (whose file has ``sha256``).

    ``deciding`` names the outputs that decide something: at ``threshold``, or by the largest value of a row.
    Quantiles are the next larger value that was seen, rounded up to two digits so that last bits do not count.
    Raises ModelError when the two answer in different shapes.
    """
    for name, array in answers.items():
        if name not in parents or parents[name].shape != array.shape:
            raise ModelError(f"The candidate and its float model answer {name!r} in different shapes; quantize again.")
    gaps = {
        name: np.abs(array.astype(np.float64) - parents[name].astype(np.float64)) for name, array in answers.items()
    }
    rows = len(next(iter(answers.values())))
    differ = {
        name: _rounded_up(float(np.mean(decisions(array, threshold) != decisions(parents[name], threshold))))
        for name, array in answers.items()
        if name in deciding
    }
    return FromParent(
        sha256, rows, {name: _quantiles(gap.reshape(rows, -1)) for name, gap in gaps.items()}, threshold, differ
    )


def _quantiles(gaps: Array) -> Quantiles:
    worst_of_row = gaps.astype(np.float64).max(axis=1)
    found = np.quantile(worst_of_row, _SHARES, method="higher")
    return Quantiles(*(_rounded_up(float(value)) for value in found))


def _rounded_up(value: float) -> float:
    if value == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit - _LAST_BITS) * unit:.2g}")


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
