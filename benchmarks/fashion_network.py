"""Trains the Fashion-MNIST convnet in a process of its own: ``python benchmarks/fashion_network.py FOLDER EPOCHS``.

Reads ``train.npz`` and writes ``model.keras`` and ``training.json``. Keras 2, so that every variant can be made.
"""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tf_keras
from tf_keras import layers

from pipeline.core.errors import DataError
from pipeline.core.tensors import map_npz

SEED = 20
BATCH = 128
LEARNING_RATE = 0.003


def network() -> tf_keras.Model:
    """Three convolutions with batch normalization and two dense layers; 43,000 weights.

    Input ``image``: float32 (n, 28, 28, 1), 0..1. Output ``probabilities``: float32 (n, 10).
    """
    image = tf_keras.Input((28, 28, 1), name="image")
    hidden = image
    for number, (channels, strides, pool) in enumerate(((16, 2, None), (32, 1, 2), (64, 1, 2)), start=1):
        hidden = layers.Conv2D(channels, 3, strides, "same", use_bias=False, name=f"conv_{number}")(hidden)
        hidden = layers.BatchNormalization(name=f"norm_{number}")(hidden)
        hidden = layers.ReLU(name=f"relu_{number}")(hidden)
        hidden = layers.MaxPool2D(pool, name=f"pool_{number}")(hidden) if pool else hidden
    hidden = layers.Flatten(name="flat")(hidden)
    hidden = layers.Dropout(0.3, name="dropout")(hidden)
    hidden = layers.Dense(32, activation="relu", name="dense")(hidden)
    return tf_keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(hidden), name="fashion")


def main() -> None:
    """Train and save."""
    folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
    tf_keras.utils.set_random_seed(SEED)
    rows = {name: np.asarray(values) for name, values in map_npz(folder / "train.npz", DataError).items()}
    model = network()
    steps = epochs * -(-len(rows["y"]) // BATCH)
    decay = tf_keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps, alpha=0.02)
    model.compile(tf_keras.optimizers.Adam(decay), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(rows["image"], rows["y"], batch_size=BATCH, epochs=epochs, verbose=2)
    model.save(folder / "model.keras")
    figures = {"weights": model.count_params(), "epochs": epochs, **{k: v[-1] for k, v in history.history.items()}}
    (folder / "training.json").write_text(json.dumps(figures, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
