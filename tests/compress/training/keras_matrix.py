"""Small models of many kinds, of one Keras library, in every form it saves: ``python keras_matrix.py 2|3 FOLDER``.

Writes ``<model>.keras``, ``<model>.h5``, ``<model>.saved``, ``<model>.rows.npz`` (inputs), ``<model>.answers.npz`` (by
the model itself, before it was saved) and, by the code under test, ``<model>/<form>/model.tflite|onnx`` and
``report.json`` (what was loaded, what each export said, seconds).
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

WHICH = sys.argv[1]
os.environ["TF_USE_LEGACY_KERAS"] = "0" if WHICH == "3" else "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from pipeline.compress.sources.source import describe, kind_of_source, require_supported, source_format_of  # noqa: E402
from pipeline.compress.training.exporting import export  # noqa: E402
from pipeline.compress.training.trained import load_trained  # noqa: E402
from pipeline.core.errors import HotspareError  # noqa: E402
from pipeline.core.names import Format  # noqa: E402

k = importlib.import_module("keras" if WHICH == "3" else "tf_keras")
L = k.layers
ROWS = 12


def images():
    x = k.Input((12, 12, 1), name="image")
    y = L.Conv2D(8, 3, padding="same", use_bias=False)(x)
    y = L.ReLU()(L.BatchNormalization()(y))
    z = L.SeparableConv2D(8, 3, padding="same", activation="relu")(y)
    y = L.Add()([y, z])
    y = L.DepthwiseConv2D(3, activation="relu")(L.MaxPooling2D()(y))
    return k.Model(x, L.Dense(4, activation="softmax", name="digit")(L.GlobalAveragePooling2D()(y)))


def signals():
    x = k.Input((32, 2), name="signal")
    y = L.BatchNormalization()(L.Conv1D(8, 5, padding="same", activation="relu")(x))
    y = L.SeparableConv1D(8, 3, activation="relu")(L.MaxPooling1D()(y))
    return k.Model(x, L.Dense(1, activation="sigmoid", name="alarm")(L.Flatten()(y)))


def autoencoder():
    x = k.Input((16, 4), name="window")
    y = L.Conv1D(6, 3, strides=2, padding="same", activation="elu")(x)
    y = L.Conv1DTranspose(6, 3, strides=2, padding="same", activation="relu")(y)
    return k.Model(x, L.Conv1D(4, 3, padding="same", name="rebuilt")(y))


def table():
    rich = L.Normalization(mean=[0.5] * 6, variance=[2.0] * 6)
    return k.Sequential(
        [
            k.Input((6,), name="row"),
            rich,
            L.Dense(16),
            L.LeakyReLU(),
            L.BatchNormalization(),
            L.Dropout(0.3),
            L.Dense(8, activation="swish"),
            L.Dense(1),
            L.Rescaling(50_000.0, offset=120_000.0, name="price"),
        ]
    )


def recurrent():
    x = k.Input((10, 3), name="steps")
    y = L.Bidirectional(L.LSTM(6, return_sequences=True))(x)
    return k.Model(x, L.Dense(1, activation="sigmoid", name="risk")(L.GRU(5)(y)))


def tokens():
    x = k.Input((9,), dtype="int32", name="tokens")
    y = L.LSTM(6)(L.Embedding(30, 8, mask_zero=True)(x))
    return k.Model(x, L.Dense(3, activation="softmax", name="topic")(y))


def bag():
    x = k.Input((9,), dtype="int64", name="ids")
    y = L.GlobalAveragePooling1D()(L.Embedding(30, 8)(x))
    return k.Model(x, L.Dense(2, name="logits")(y))


def two_inputs():
    user = k.Input((1,), dtype="int32", name="user")
    facts = k.Input((4,), name="facts")
    table = L.Flatten()(L.Embedding(30, 6)(user))
    y = L.Concatenate()([table, L.Dense(6, activation="tanh")(facts)])
    return k.Model([user, facts], L.Dense(1, activation="sigmoid", name="click")(y))


def two_outputs():
    x = k.Input((5,), name="z_in")
    y = L.Dense(8, activation="relu")(x)
    return k.Model(x, [L.Dense(2, name="zulu")(y), L.Dense(2, name="alpha")(y), L.Dense(2, name="mike")(y)])


def attention():
    x = k.Input((8,), dtype="int32", name="words")
    y = L.Embedding(30, 8)(x)
    y = L.LayerNormalization()(L.Add()([y, L.MultiHeadAttention(2, 4)(y, y)]))
    y = L.Dense(8, activation="gelu")(y)
    return k.Model(x, L.Dense(1, activation="sigmoid", name="tone")(L.GlobalAveragePooling1D()(y)))


MODELS = (
    images, signals, autoencoder, table, recurrent, tokens, bag, two_inputs, two_outputs, attention,
)  # fmt: skip


def rows_of(model):
    rng = np.random.default_rng(8)
    found = {}
    for tensor in model.inputs:
        shape, dtype = (ROWS, *tensor.shape[1:]), tf.as_dtype(tensor.dtype).as_numpy_dtype
        whole = np.issubdtype(dtype, np.integer)
        found[tensor.name.partition(":")[0]] = (rng.integers(0, 30, shape) if whole else rng.normal(size=shape)).astype(
            dtype
        )
    return found


def excite(model):
    """Move every weight a little from its start: biases and statistics of zero and one would hide mistakes."""
    rng = np.random.default_rng(9)
    for weight in model.weights:
        values = np.asarray(weight)
        if values.dtype.kind == "f":
            weight.assign(values + 0.2 * np.abs(rng.normal(size=values.shape)).astype(np.float32))


def save_forms(model, name, folder):
    model.save(folder / f"{name}.keras")
    model.save(folder / f"{name}.h5")
    model.export(folder / f"{name}.saved") if WHICH == "3" else model.save(folder / f"{name}.saved")


def save_modules(folder):
    """Plain TensorFlow: positional arguments, two signatures, a fixed number of rows."""

    class Plain(tf.Module):
        def __init__(self):
            self.w = tf.Variable(tf.constant(np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)))

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32), tf.TensorSpec([None, 3], tf.float32)])
        def both(self, left, right):
            return {"sum": left @ self.w + right, "product": (left @ self.w) * right}

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="left")])
        def half(self, left):
            return tf.nn.softmax(left @ self.w)

        @tf.function(input_signature=[tf.TensorSpec([5, 4], tf.float32, name="left")])
        def five(self, left):
            return {"five": left @ self.w}

    plain = Plain()
    tf.saved_model.save(plain, folder / "module.saved", signatures={"both": plain.both, "half": plain.half})
    tf.saved_model.save(plain, folder / "fixed.saved", signatures=plain.five)
    rng = np.random.default_rng(2)
    left, right = (rng.normal(size=(ROWS, n)).astype(np.float32) for n in (4, 3))
    np.savez(folder / "module.rows.npz", left=left, right=right)
    np.savez(folder / "module.answers.npz", **{name: np.asarray(v) for name, v in plain.both(left, right).items()})
    np.savez(folder / "fixed.rows.npz", left=left)
    np.savez(folder / "fixed.answers.npz", five=left @ plain.w.numpy())


def try_form(name, path, folder, formats):
    began = time.perf_counter()
    said = {"model": name, "form": path.name.partition(".")[2], "exports": {}}
    try:
        source_format = source_format_of(path)
        require_supported(path, source_format)
        said["described"] = describe(path)
        trained = load_trained(path, kind_of_source(path, source_format))
        said["keras_model"] = trained.keras_model is not None
        with np.load(folder / f"{name}.rows.npz") as archive:
            rows = dict(archive)
        out = folder / name / said["form"].partition("#")[0]
        out.mkdir(parents=True)
        for model_format in formats:
            try:
                said["exports"][model_format] = export(trained, model_format, rows, out).max_abs_diff
            except HotspareError as error:
                said["exports"][model_format] = str(error)
    except HotspareError as error:
        said["error"] = str(error)
    said["seconds"] = round(time.perf_counter() - began, 2)
    return said


def _more_forms(name):
    """Loading differs by form, converting does not: a few models suffice for the others."""
    return ("h5", "saved") if name in ("images", "table", "tokens", "two_outputs") else ()


def main():
    folder = Path(sys.argv[2])
    report = []
    only = sys.argv[3:]
    for make in MODELS:
        if only and make.__name__ not in only:
            continue
        k.utils.set_random_seed(3)
        model, name = make(), make.__name__
        model.compile("sgd", "mse")
        excite(model)
        rows = rows_of(model)
        values = list(rows.values())
        answers = model(values if len(values) > 1 else values[0], training=False)
        answers = answers if isinstance(answers, (list, tuple)) else [answers]
        names = getattr(model, "output_names", None) or [model.layers[-1].name]
        np.savez(folder / f"{name}.rows.npz", **rows)
        np.savez(folder / f"{name}.answers.npz", **{n: np.asarray(a) for n, a in zip(names, answers, strict=True)})
        save_forms(model, name, folder)
        report.append(try_form(name, folder / f"{name}.keras", folder, list(Format)))
        report += [try_form(name, folder / f"{name}.{form}", folder, [Format.TFLITE]) for form in _more_forms(name)]
    if WHICH == "3":
        save_modules(folder)
        report.append(try_form("module", folder / "module.saved#both", folder, list(Format)))
        report.append(try_form("module", folder / "module.saved", folder, []))
        report.append(try_form("fixed", folder / "fixed.saved", folder, list(Format)))
    (folder / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
