"""How far a file's answers are from its float export's, on the same rows; pure.

Probabilities: the Kullback-Leibler divergence from the float answers, in nats (one sigmoid column: of two outcomes).
Numbers and pictures: the error's energy over the float answers' variance. Vectors that are compared by their
direction: one less their cosine. All are 0 for equal answers and small for close ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ModelError
from pipeline.core.findings import Measure
from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array, Tensors

_LEAST = 1e-7  # float32 cannot tell a probability closer to 0 or 1 than this from it
_SUM_TOLERANCE = 1e-3
_DIRECTION_COLUMNS_MIN = 8  # a row of fewer numbers is a few figures, not a direction

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Yardstick:
    """What divergence means for one export: the measure of all outputs, and whether rows are logits."""

    measure: Measure
    logits: bool = False


def yardstick(metric: Metric, answers: Tensors, inputs: Tensors) -> Yardstick:
    """Choose the measure by what the float answers (n, …) are and what the metric makes of them."""
    if metric is Metric.RMSE:
        return Yardstick("noise_to_signal")
    arrays = [np.asarray(array, np.float64) for array in answers.values()]
    if all(_are_probabilities(array) for array in arrays):
        return Yardstick("kl")
    if metric is Metric.ACCURACY and all(array.ndim == 2 and array.shape[1] > 1 for array in arrays):
        return Yardstick("kl", logits=True)
    if all(_are_directions(array, inputs) for array in arrays):
        return Yardstick("cosine_distance")
    return Yardstick("noise_to_signal")


def divergence(how: Yardstick, answers: Tensors, reference: Tensors) -> float:
    """Return the mean over rows, averaged over the outputs; both map output names to arrays (n, …).

    Raises ModelError for answers of another shape, or that are NaN or infinite.
    """
    return float(np.mean([_of_output(how, name, answers, reference) for name in sorted(reference)]))


def _of_output(how: Yardstick, name: str, answers: Tensors, reference: Tensors) -> float:
    found, wanted = np.asarray(answers[name], np.float64), np.asarray(reference[name], np.float64)
    if found.shape != wanted.shape:
        raise ModelError(f"It answers {name!r} in the shape {found.shape}, its float export in {wanted.shape}.")
    if not np.isfinite(found).all():
        raise ModelError(f"It answers NaN or infinity in {name!r}; its numbers overflow this scheme.")
    if how.measure == "kl":
        return _kl(_softmax(found), _softmax(wanted)) if how.logits else _kl(found, wanted)
    rows, wanted_rows = found.reshape(len(found), -1), wanted.reshape(len(wanted), -1)
    return _cosine_distance(rows, wanted_rows) if how.measure == "cosine_distance" else _noise(rows, wanted_rows)


def _kl(found: Floats, wanted: Floats) -> float:
    if not _sums_to_one(wanted):  # each number is a chance of its own
        found, wanted = np.stack([found, 1 - found], -1), np.stack([wanted, 1 - wanted], -1)
    p, q = np.clip(wanted, _LEAST, 1.0), np.clip(found, _LEAST, 1.0)
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return max(0.0, float(np.mean(np.sum(p * np.log(p / q), axis=-1))))


def _noise(found: Floats, wanted: Floats) -> float:
    noise = float(np.mean((found - wanted) ** 2))
    signal = float(np.mean((wanted - wanted.mean(axis=0)) ** 2)) or float(np.mean(wanted**2)) or 1.0
    return noise / signal


def _cosine_distance(found: Floats, wanted: Floats) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    products = np.einsum("ij,ij->i", found, wanted)
    same = np.all(found == wanted, axis=1)  # two rows of zeros have no direction, and are equal
    cosine = np.where(same, 1.0, np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0))
    return max(0.0, float(np.mean(1.0 - cosine)))


def _softmax(values: Floats) -> Floats:
    grown = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True))


def _are_probabilities(array: Floats) -> bool:
    inside = bool(((array >= 0) & (array <= 1)).all())
    return inside and array.ndim in (1, 2) and (_sums_to_one(array) or array.ndim == 1 or array.shape[1] == 1)


def _sums_to_one(array: Floats) -> bool:
    return array.ndim >= 2 and array.shape[-1] > 1 and bool(np.allclose(array.sum(-1), 1.0, atol=_SUM_TOLERANCE))


def _are_directions(array: Floats, inputs: Mapping[str, Array]) -> bool:
    rebuilds_an_input = any(item.shape == array.shape for item in inputs.values())
    return array.ndim == 2 and array.shape[1] >= _DIRECTION_COLUMNS_MIN and not rebuilds_an_input
