"""Float exports, each checked against the model it came from on real rows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError

from pipeline.compress.job import DIFFERENCE_MAX, export_file
from pipeline.compress.training.trained import Trained
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import VariantRefused
from pipeline.core.files import write_atomic
from pipeline.core.names import Format
from pipeline.core.records import Export
from pipeline.core.tensors import Tensors
from pipeline.engines.open import open_session

_OPSET = 17
_FREE_OR_ONE_ROW = (None, 1)


def export(trained: Trained, model_format: Format, rows: Tensors, folder: Path) -> Export:
    """Write one export and compare its answers with the model's on ``rows``.

    Raises VariantRefused when it cannot be converted or differs by more than ``DIFFERENCE_MAX``.
    """
    data = _CONVERTERS[model_format](trained)
    difference = _difference(trained, model_format, data, rows)
    if not difference <= DIFFERENCE_MAX:
        raise VariantRefused(
            f"The {model_format} export differs from its Keras model by {difference:.2g} on real rows "
            f"(at most {DIFFERENCE_MAX:g} is accepted); its layers do not convert faithfully."
        )
    write_atomic(folder / export_file(model_format), data)
    return Export(export_file(model_format), sha256_hex(data), difference, len(next(iter(rows.values()))))


def _difference(trained: Trained, model_format: Format, data: bytes, rows: Tensors) -> float:
    wanted = trained.answer({name: tf.constant(values) for name, values in rows.items()})
    found = open_session(model_format, data).run(rows)
    if found.keys() != wanted.keys():
        raise VariantRefused(f"The {model_format} export answers {sorted(found)}, the model {sorted(wanted)}.")
    return max(float(np.abs(found[name] - np.asarray(wanted[name])).max()) for name in wanted)


def _serving(trained: Trained, rows: int | None) -> Any:
    specs = [tf.TensorSpec([rows, *spec.shape[1:]], spec.dtype, name=spec.name) for spec in trained.inputs]
    names = [spec.name for spec in specs]

    def serve(*tensors: Any) -> dict[str, Any]:
        return trained.answer(dict(zip(names, tensors, strict=True)))

    return tf.function(serve, input_signature=specs, autograph=False)


def _to_tflite(trained: Trained) -> bytes:
    """Convert with a free number of rows, or with one row where that has no kernel (recurrent layers)."""
    for rows in _FREE_OR_ONE_ROW:
        try:
            return _convert_tflite(trained, rows)
        except ConverterError as error:
            reason = " ".join(str(error).split())[:200]
    raise VariantRefused(f"The model does not convert to tflite: {reason}.")


def _convert_tflite(trained: Trained, rows: int | None) -> bytes:
    holder = tf.Module()
    holder.model = trained.owner
    serve = _serving(trained, rows)
    with TemporaryDirectory() as folder:  # through a SavedModel, because only that keeps the signature's names
        tf.saved_model.save(holder, folder, signatures={"serving_default": serve.get_concrete_function()})
        return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def _to_onnx(trained: Trained) -> bytes:
    import tf2onnx

    specs = [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype, name=spec.name) for spec in trained.inputs]
    try:
        proto, _ = tf2onnx.convert.from_function(_serving(trained, None), input_signature=specs, opset=_OPSET)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        raise VariantRefused(f"The model does not convert to onnx: {' '.join(str(error).split())[:200]}.") from error
    return bytes(proto.SerializeToString())


_CONVERTERS: Mapping[Format, Callable[[Trained], bytes]] = {Format.TFLITE: _to_tflite, Format.ONNX: _to_onnx}
