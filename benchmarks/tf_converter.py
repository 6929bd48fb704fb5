"""The TF converter as its own guide uses it, in a process of its own: ``tf_converter.py MODEL CALIBRATION OUT_DIR``.

Writes ``int8.tflite`` (full integer, representative data, float32 in and out as is its default) and ``dynamic.tflite``.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import numpy as np
import tensorflow as tf
import tf_keras

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array, map_npz


def main() -> None:
    """Convert the Keras 2 model both ways."""
    source, calibration, target = (Path(argument) for argument in sys.argv[1:4])
    model = tf_keras.models.load_model(source, compile=False)
    dynamic = tf.lite.TFLiteConverter.from_keras_model(model)
    dynamic.optimizations = [tf.lite.Optimize.DEFAULT]
    (target / "dynamic.tflite").write_bytes(dynamic.convert())
    integer = tf.lite.TFLiteConverter.from_keras_model(model)
    integer.optimizations = [tf.lite.Optimize.DEFAULT]
    integer.representative_dataset = lambda: rows(model, calibration)
    integer.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    (target / "int8.tflite").write_bytes(integer.convert())


def rows(model: tf_keras.Model, path: Path) -> Iterator[list[Array]]:
    """Yield every calibration row, as a list in the order of the model's inputs."""
    arrays = map_npz(path, DataError)
    inputs = [
        np.asarray(arrays[name], tensor.dtype.as_numpy_dtype)
        for name, tensor in zip(model.input_names, model.inputs, strict=True)
    ]
    for row in range(len(inputs[0])):
        yield [values[row : row + 1] for values in inputs]


if __name__ == "__main__":
    main()
