"""The tensors between a candidate's operators beside those of its float export: where noise comes in."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import HotspareError
from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.score.diagnosis import TENSORS_NAMED, TensorNoise, Tensors
from pipeline.score.fidelity import signal_to_noise_db
from pipeline.score.scorecard import PLACES

ROWS_MAX = 64
_NUMBERS_MAX = 20_000_000  # kept of one model at a time


@dataclass(frozen=True)
class Inside:
    """One tensor of a run as real numbers; ``low`` and ``high`` end the range that it is stored in, if it is."""

    kind: str
    values: Array
    low: float | None = None
    high: float | None = None


def rows_to_keep(numbers_a_row: int, rows: int) -> int:
    """Return how many rows to compare on, so that a large model's tensors fit into memory."""
    return max(1, min(ROWS_MAX, rows, _NUMBERS_MAX // max(1, numbers_a_row)))


def inside(model_format: Format, model: bytes, inputs: Mapping[str, Array]) -> dict[str, Inside]:
    """Run a model and return every tensor between its operators, by the name that its float export gives it.

    Raises ModelError when it cannot be run so.
    """
    if model_format is Format.ONNX:
        from pipeline.score.onnx_inside import onnx_inside

        return onnx_inside(model, inputs)
    from pipeline.score.litert_inside import litert_inside

    return litert_inside(model, inputs)


def compare_tensors(candidate: Mapping[str, Inside], reference: Mapping[str, Inside]) -> Tensors:
    """Compare the tensors that both have by name and shape; the worst come first."""
    shared = [name for name, item in candidate.items() if name in reference and _alike(item, reference[name])]
    found = [_noise(name, candidate[name], reference[name]) for name in shared]
    worst = sorted(found, key=lambda item: (item.snr_db, item.name))
    why = None if found else "no tensor between the operators has the name it has in the float export"
    rows = max((len(item.values) for item in reference.values() if item.values.ndim), default=0)
    return Tensors(tuple(worst[:TENSORS_NAMED]), len(found), rows, why)


def no_tensors(error: HotspareError | str) -> Tensors:
    """Say why no tensors are compared."""
    return Tensors((), 0, 0, str(error))


def _alike(one: Inside, other: Inside) -> bool:
    return one.values.shape == other.values.shape


def _noise(name: str, ours: Inside, theirs: Inside) -> TensorNoise:
    saturated = None
    if ours.low is not None and ours.high is not None:
        values = np.asarray(theirs.values, np.float64)
        slack = (ours.high - ours.low) / 255 / 2  # rounding to the last step is no saturation
        saturated = round(float(np.mean((values < ours.low - slack) | (values > ours.high + slack))), PLACES)
    noise = signal_to_noise_db(ours.values, theirs.values)
    return TensorNoise(name, ours.kind, round(noise, 3) if np.isfinite(noise) else -150.0, saturated)
