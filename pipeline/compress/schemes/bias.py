"""Bias correction: the mean error that rounded weights cause in each layer's output is taken out of its bias.

Rounding moves the mean of a layer's outputs, channel by channel, and the next layer takes the shift for signal. The
shift is measured on calibration rows and folded into the float bias, layer after layer, so that each layer is measured
behind the corrected ones (Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction,
section 4.2, its empirical form). A correction that moves the model's answers away from the float model's is taken
back. No byte is added.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from pipeline.core.tensors import Array, Tensors

ROWS_MAX = 512


class Biased(Protocol):
    """A model whose layers have float biases that can be moved; layers are in the order of computation."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the layers whose bias is their own."""
        ...

    @property
    def answers(self) -> tuple[str, ...]:
        """Return what :meth:`outputs` calls the model's own float outputs."""
        ...

    def outputs(self, batches: Sequence[Tensors], layers: Sequence[str]) -> dict[str, Array]:
        """Return each layer's outputs before its activation, averaged to (rows, channels); answers, (rows, values)."""
        ...

    def shifted(self, layer: str, shift: Array) -> Self:
        """Return the model with ``shift`` (channels,) added to a layer's bias."""
        ...


_Model = TypeVar("_Model", bound=Biased)


def fold_errors(reference: Mapping[str, Array], model: _Model, batches: Sequence[Tensors]) -> _Model:
    """Return the model with every layer's mean output brought to the reference's, first layer first.

    ``reference`` holds the float model's outputs and answers on the same ``batches``.
    """
    distance = _distance(reference, model, batches)
    for layer in model.layers:
        if layer in reference:
            errors = np.subtract(reference[layer], model.outputs(batches, (layer,))[layer])
            corrected = model.shifted(layer, believable_shift(errors))
            moved = _distance(reference, corrected, batches)
            if moved < distance:
                model, distance = corrected, moved
    return model


def _distance(reference: Mapping[str, Array], model: Biased, batches: Sequence[Tensors]) -> float:
    found = model.outputs(batches, model.answers)
    return float(sum(np.square(np.subtract(found[name], reference[name])).sum() for name in model.answers))


def believable_shift(errors: Array) -> Array:
    """Return the mean of ``errors`` (rows, channels) over rows, less what of it a few rows may owe to chance.

    Each channel is shrunk by its standard error, squared, over its mean, squared (James and Stein's rule, positive
    part): where the rows disagree about the sign of an error, nothing is moved.
    """
    mean = errors.mean(0, dtype=np.float64)
    noise = errors.var(0, dtype=np.float64) / max(1, len(errors) - 1)
    signal = np.square(mean)
    kept = np.clip(1 - np.divide(noise, signal, out=np.ones_like(signal), where=signal > 0), 0, 1)
    return np.asarray(np.where(np.isfinite(mean), mean * kept, 0.0))


def some_rows(batches: Iterable[Tensors]) -> tuple[Tensors, ...]:
    """Return the first rows, at most ``ROWS_MAX``: means settle long before ranges do."""
    kept: list[Tensors] = []
    missing = ROWS_MAX
    for batch in batches:
        part = {name: array[:missing] for name, array in batch.items()}
        kept.append(part)
        missing -= len(next(iter(part.values())))
        if missing <= 0:
            break
    return tuple(kept)
