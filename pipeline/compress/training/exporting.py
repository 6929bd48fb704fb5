"""Float exports, each checked against the model it came from on real rows."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError

from pipeline.compress.job import DIFFERENCE_MAX, export_file
from pipeline.compress.training.freezing import frozen
from pipeline.compress.training.trained import Trained
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import ModelError, VariantRefused
from pipeline.core.files import write_atomic
from pipeline.core.names import Format
from pipeline.core.records import Export
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.open import open_session

_OPSET = 17
_MAGNITUDE_MIN = 0.01  # differences of smaller outputs are float noise
_FREE_OR_ONE_ROW = (None, 1)
_ONNX_FAILURES = (ValueError, RuntimeError, KeyError, NotImplementedError, TypeError, AttributeError, AssertionError)


def export(trained: Trained, model_format: Format, rows: Tensors, folder: Path) -> Export:
    """Write one export and compare its answers with the model's on ``rows``.

    It takes any number of rows; where that does not convert, or converts wrongly (recurrent layers), it is made for
    one row and engines repeat it. Differences count relative to the largest answer of their output.
    Raises VariantRefused when no form converts or each differs by more than ``DIFFERENCE_MAX``.
    """
    reasons = []
    wanted = _answers(trained, rows)
    for count in _FREE_OR_ONE_ROW if trained.fixed_rows is None else (trained.fixed_rows,):
        try:
            data = _CONVERTERS[model_format](trained, count)
            difference = _difference(wanted, model_format, data, rows)
        except (VariantRefused, ModelError) as error:
            reasons.append(str(error))
            continue
        write_atomic(folder / export_file(model_format), data)
        return Export(export_file(model_format), sha256_hex(data), difference, len(next(iter(rows.values()))))
    raise VariantRefused(reasons[-1])


def _answers(trained: Trained, rows: Tensors) -> dict[str, Array]:
    answers = trained.answer({name: tf.constant(values) for name, values in rows.items()})
    return {name: np.asarray(values) for name, values in answers.items()}


def _difference(wanted: Mapping[str, Array], model_format: Format, data: bytes, rows: Tensors) -> float:
    """Return the largest absolute difference of an export's answers; raises VariantRefused for one that is too large.

    Outputs are compared by name, and a name must have its own values: outputs of equal shape cannot be swapped.
    """
    found = open_session(model_format, data).run(rows)
    if found.keys() != wanted.keys():
        raise VariantRefused(f"The {model_format} export answers {sorted(found)}, the model {sorted(wanted)}.")
    largest = 0.0
    for name, values in wanted.items():
        if found[name].shape != values.shape:
            raise VariantRefused(
                f"The {model_format} export answers {name!r} in shape {found[name].shape}, the model in {values.shape}."
            )
        difference, magnitude = _compared(found[name], values)
        if not difference <= DIFFERENCE_MAX * max(magnitude, _MAGNITUDE_MIN):
            raise VariantRefused(
                f"The {model_format} export differs from its source model by {difference:.2g} in {name!r} on real "
                f"rows, whose answers reach {magnitude:.2g} (at most {DIFFERENCE_MAX:g} of that is accepted); its "
                "layers do not convert faithfully."
            )
        largest = max(largest, difference)
    return largest


def _compared(found: Array, wanted: Array) -> tuple[float, float]:
    exact, given = np.asarray(wanted, np.float64), np.asarray(found, np.float64)
    return float(np.abs(given - exact).max(initial=0)), float(np.abs(exact).max(initial=0))


def _serving(trained: Trained, rows: int | None) -> Any:
    specs = _specs(trained, rows)
    names = [spec.name for spec in trained.inputs]

    def serve(*tensors: Any) -> dict[str, Any]:
        # An output that is an input unchanged, or another output, would lose its name.
        answers = trained.answer(dict(zip(names, tensors, strict=True)))
        return {name: tf.identity(values) for name, values in answers.items()}

    return tf.function(serve, input_signature=specs, autograph=False)


def _specs(trained: Trained, rows: int | None) -> list[Any]:
    return [tf.TensorSpec([rows, *spec.shape[1:]], spec.dtype, name=spec.name) for spec in trained.inputs]


def _to_tflite(trained: Trained, rows: int | None) -> bytes:
    holder = tf.Module()
    holder.model = trained.owner
    try:
        with TemporaryDirectory() as folder:  # through a SavedModel, because only that keeps the signature's names
            serve = _serving(trained, rows)
            if trained.keras_model is None and rows is not None:
                serve = frozen(serve, _specs(trained, rows), rows)
            tf.saved_model.save(holder, folder, signatures={"serving_default": serve.get_concrete_function()})
            return bytes(tf.lite.TFLiteConverter.from_saved_model(folder).convert())
    except (ConverterError, ValueError, AssertionError) as error:  # the last: it holds a table of words
        raise _unconverted("tflite", error) from error


def _to_onnx(trained: Trained, rows: int | None) -> bytes:
    import tf2onnx

    try:
        specs = _specs(trained, rows)
        serve = frozen(_serving(trained, rows), specs, rows)
        proto, _ = tf2onnx.convert.from_function(
            serve, input_signature=specs, opset=_OPSET, custom_op_handlers={"Erfc": (_erfc, [])}
        )
    except _ONNX_FAILURES as error:
        raise _unconverted("onnx", error) from error
    return bytes(proto.SerializeToString())


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Write erfc(x) as 1 - erf(x): tf2onnx knows only erf, and Keras 3's gelu is made of erfc."""
    dtype, shape = graph.get_dtype(node.output[0]), graph.get_shape(node.output[0])
    graph.remove_node(name)
    erf = graph.make_node("Erf", node.input, dtypes=[dtype], shapes=[shape])
    one = graph.make_const(f"{name}_one", np.array(1, np.float32))
    graph.make_node(
        "Sub", [one.output[0], erf.output[0]], name=name, outputs=node.output, dtypes=[dtype], shapes=[shape]
    )


def _unconverted(model_format: str, error: Exception) -> VariantRefused:
    return VariantRefused(f"The model has no {model_format} form: {' '.join(str(error).split())[:200]}.")


_CONVERTERS: Mapping[Format, Callable[[Trained, int | None], bytes]] = {
    Format.TFLITE: _to_tflite,
    Format.ONNX: _to_onnx,
}
