"""How much faster a residual convnet is with half its channels: ``python benchmarks/structured.py [--epochs N]``.

Builds a CIFAR-like residual convnet (32 × 32 × 3, three stages), shrinks it as the variant ``p50s`` does, exports both
to LiteRT and onnxruntime and times them in turn, one thread. With ``--epochs`` it is trained on Fashion-MNIST first
(Debian's ``dataset-fashion-mnist``), and the accuracy is printed of the dense model, of the shrunk one, and of that
fine-tuned for one and for two epochs.
"""

import argparse
import gzip
import importlib
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from pipeline.compress.job import export_file
from pipeline.compress.training.exporting import export
from pipeline.compress.training.structured import shrink
from pipeline.compress.training.trained import of_keras
from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session
from pipeline.score.cost import interleave

IMAGES = Path("/usr/share/datasets/fashion-mnist")
SEED = 20
CHANNELS_RATIO = 0.5
TRAIN_ROWS, TEST_ROWS, RANKING_ROWS = 20_000, 5_000, 256
BATCH, LEARNING_RATE, TUNING_RATE = 128, 0.002, 0.0005
STAGES = ((32, 1), (64, 2), (128, 2))
ROUNDS = 12


def network(keras: Any) -> Any:
    """Three stages of two residual blocks; input ``image`` float32 (n, 32, 32, 3), output ``probabilities`` (n, 10)."""
    image = keras.Input((32, 32, 3), name="image")
    hidden = normalized(keras, image, STAGES[0][0], 3, 1, relu=True)
    for channels, strides in STAGES:
        hidden = block(keras, block(keras, hidden, channels, strides), channels, 1)
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    outputs = keras.layers.Dense(10, activation="softmax", name="probabilities")(hidden)
    return keras.Model(image, outputs, name="residual")


def block(keras: Any, hidden: Any, channels: int, strides: int) -> Any:
    """Add two convolutions to what they read, which is projected where its shape differs."""
    inner = normalized(keras, hidden, channels, 3, strides, relu=True)
    inner = normalized(keras, inner, channels, 3, 1, relu=False)
    if strides != 1:
        hidden = normalized(keras, hidden, channels, 1, strides, relu=False)
    return keras.layers.ReLU()(keras.layers.Add()([hidden, inner]))


def normalized(keras: Any, hidden: Any, channels: int, size: int, strides: int, relu: bool) -> Any:
    """Convolve and normalize."""
    hidden = keras.layers.Conv2D(channels, size, strides, padding="same", use_bias=False)(hidden)
    hidden = keras.layers.BatchNormalization(momentum=0.9)(hidden)
    return keras.layers.ReLU()(hidden) if relu else hidden


def pictures(split: str, rows: int) -> tuple[Array, Array]:
    """Return Fashion-MNIST as (n, 32, 32, 3) pictures, 0..1, and labels."""
    packed, labels = (gzip.decompress((IMAGES / f"{split}-{kind}-ubyte.gz").read_bytes()) for kind in KINDS)
    grey = np.frombuffer(packed, np.uint8, offset=16).reshape(-1, 28, 28, 1)[:rows]
    padded = np.pad(grey, ((0, 0), (2, 2), (2, 2), (0, 0))).astype(np.float32) / 255
    return np.repeat(padded, 3, axis=-1), np.frombuffer(labels, np.uint8, offset=8)[:rows].astype(np.int32)


KINDS = ("images-idx3", "labels-idx1")


def fit(keras: Any, model: Any, epochs: int, rate: float) -> None:
    """Train a model in place."""
    images, labels = pictures("train", TRAIN_ROWS)
    steps = epochs * -(-len(labels) // BATCH)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps, alpha=0.02)
    model.compile(keras.optimizers.Adam(decay), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=0)


def tell_accuracy(name: str, model: Any) -> None:
    """Print the accuracy on test pictures."""
    images, labels = pictures("t10k", TEST_ROWS)
    found = np.argmax(model.predict(images, batch_size=500, verbose=0), axis=1)
    print(f"accuracy  {name:<32} {float(np.mean(found == labels)):.4f}  of {len(labels)}", flush=True)


def exports(model: Any, made_by: str) -> dict[Format, bytes]:
    """Return the model in every format."""
    rows = {"image": np.random.default_rng(SEED).random((4, 32, 32, 3), np.float32)}
    with tempfile.TemporaryDirectory() as folder:
        for name in Format:
            export(of_keras(model, made_by), name, rows, Path(folder))
        return {name: Path(folder, export_file(name)).read_bytes() for name in Format}


def tell_latency(dense: dict[Format, bytes], shrunk: dict[Format, bytes]) -> None:
    """Print, for each engine, both medians of ``ROUNDS`` interleaved runs and their ratio."""
    row = {"image": np.random.default_rng(SEED).random((1, 32, 32, 3), np.float32)}
    for name in Format:
        slow, fast = (open_session(name, models[name]) for models in (dense, shrunk))
        for _ in range(ROUNDS):
            ours, theirs = interleave(lambda: fast.run(row), lambda: slow.run(row))  # noqa: B023 - called at once
            p50, reference = statistics.median(ours), statistics.median(theirs)
            print(
                f"latency   {name:<7} dense {reference:.3f} ms  p50s {p50:.3f} ms  {reference / p50:.2f} x faster"
                f"   {len(dense[name]):,} -> {len(shrunk[name]):,} bytes",
                flush=True,
            )


def main() -> None:
    """Print accuracy, if asked for, and latency."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=0, help="train on Fashion-MNIST for so many epochs")
    parser.add_argument("--library", choices=("keras", "tf_keras"), default="keras")
    asked = parser.parse_args()
    keras = importlib.import_module(asked.library)
    keras.utils.set_random_seed(SEED)
    dense = network(keras)
    if asked.epochs:
        fit(keras, dense, asked.epochs, LEARNING_RATE)
        tell_accuracy("dense", dense)
        ranking = pictures("train", RANKING_ROWS)[0]
    else:
        ranking = np.random.default_rng(SEED).random((RANKING_ROWS, 32, 32, 3), np.float32)
    shrunk = shrink(dense, CHANNELS_RATIO, {"image": ranking})
    print(f"weights   dense {dense.count_params():,}  p50s {shrunk.count_params():,}", flush=True)
    tell_latency(exports(dense, asked.library), exports(shrunk, asked.library))
    if asked.epochs:
        tell_accuracy("p50s, not fine-tuned", shrunk)
        for epochs in (1, 2):
            tuned = keras.models.clone_model(shrunk)
            tuned.set_weights(shrunk.get_weights())
            fit(keras, tuned, epochs, TUNING_RATE)
            tell_accuracy(f"p50s, {epochs} epochs of fine-tuning", tuned)


if __name__ == "__main__":
    main()
