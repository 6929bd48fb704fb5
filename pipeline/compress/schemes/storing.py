"""A float export stored in a scheme, or in a scheme a weight group: one way in for both file formats."""

from collections.abc import Iterable

import numpy as np

from pipeline.compress.schemes import onnx_schemes, tflite_schemes
from pipeline.compress.schemes.calibration import Clipping, Ranges, activation_ranges
from pipeline.compress.schemes.groups import Assignment, WeightGroup
from pipeline.compress.schemes.onnx_bias import correct_onnx
from pipeline.compress.schemes.tflite_bias import correct_tflite
from pipeline.core.errors import ModelError, SchemeRefused
from pipeline.core.names import Format, Scheme
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session, TensorSpec
from pipeline.engines.open import open_session

_CANNOT_RUN = "The engine cannot run what was stored: "


def prepare(model_format: Format, export: bytes) -> bytes:
    """Return a float export with its layers where the quantizers find them; its answers are the same.

    Raises ModelError for bytes that are not a model of the format.
    """
    return onnx_schemes.prepared_onnx(export) if model_format is Format.ONNX else tflite_schemes.quantizable(export)


def weight_groups(model_format: Format, prepared: bytes) -> tuple[WeightGroup, ...]:
    """List what can be decided in a prepared model, in the order of its graph."""
    if model_format is Format.ONNX:
        return onnx_schemes.onnx_groups(prepared)
    return tflite_schemes.tflite_groups(prepared)


def calibrate(
    model_format: Format, prepared: bytes, batches: Iterable[Tensors], clipping: Clipping = Clipping.NONE
) -> Ranges:
    """Return the range of every float activation over all rows of ``batches``, by tensor name.

    Memory is that of one batch and, with clipping, a histogram a tensor. Raises DataError when there are no rows, or
    when a row makes an activation NaN or infinite.
    """
    if model_format is Format.ONNX:
        return onnx_schemes.onnx_ranges(prepared, batches, clipping)
    return activation_ranges(prepared, batches, clipping)


def store(model_format: Format, prepared: bytes, scheme: Scheme | Assignment, ranges: Ranges | None) -> bytes:
    """Store a prepared model in one scheme, or in one a weight group; equal inputs give equal bytes.

    Inputs and outputs keep their names and types. Raises SchemeRefused when the scheme does not exist for the model,
    needs ``ranges`` that are not given, or gives a file that the engine cannot run.
    """
    stored = store_unrun(model_format, prepared, scheme, ranges)
    if stored is not prepared:
        try:
            session = open_session(model_format, stored)
        except ModelError as error:
            raise SchemeRefused(f"{_CANNOT_RUN}{error}") from error
        require_answers(session)
    return stored


def store_unrun(model_format: Format, prepared: bytes, scheme: Scheme | Assignment, ranges: Ranges | None) -> bytes:
    """Store as :func:`store` does, for a caller who loads the file anyway and asks :func:`require_answers` then."""
    schemes = (scheme,) if isinstance(scheme, Scheme) else tuple(scheme.values())
    if scheme is Scheme.F32:
        return prepared
    needy = next((item for item in schemes if item.needs_ranges), None)
    if needy is not None and ranges is None:
        raise SchemeRefused(f"{needy} needs the ranges of activations; calibrate the model first.")
    if model_format is Format.ONNX:
        return onnx_schemes.store_onnx(prepared, scheme, ranges)
    return tflite_schemes.quantize_tflite(prepared, scheme, ranges)


def require_answers(session: Session) -> None:
    """Run one row of zeros: an engine may load a file that it has no kernel for, or whose numbers overflow."""
    try:
        answers = session.run({spec.name: _zeros(spec) for spec in session.inputs})
    except ModelError as error:
        raise SchemeRefused(f"{_CANNOT_RUN}{error}") from error
    broken = [name for name, values in answers.items() if np.isnan(np.asarray(values, np.float64)).any()]
    if broken:
        raise SchemeRefused(f"What was stored answers NaN in {', '.join(broken)}; its numbers overflow this scheme.")


def _zeros(spec: TensorSpec) -> Array:
    return np.zeros([1 if axis == -1 else axis for axis in spec.shape], spec.dtype)


def correct_biases(model_format: Format, prepared: bytes, stored: bytes, batches: Iterable[Tensors]) -> bytes:
    """Fold the mean error of each operator's output into its float bias: better answers for no byte more.

    ``stored`` is what :func:`store` made of ``prepared``; of ``batches`` the first 512 rows are used. The result has
    the same size; it is ``stored`` itself where there is nothing to correct.
    """
    if model_format is Format.ONNX:
        return correct_onnx(prepared, stored, batches)
    return correct_tflite(prepared, stored, batches)
