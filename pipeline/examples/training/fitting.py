"""How each example is fitted: Adam with a cosine decay, a fixed number of epochs chosen on validation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tf_keras

from pipeline.core.tensors import Array
from pipeline.examples.recommendation import with_new_negatives

Rows = Mapping[str, Array]


@dataclass(frozen=True)
class Fitting:
    """The settings of one example; ``redraw`` makes each epoch's rows of the training split."""

    epochs: int
    learning_rate: float
    batch_size: int
    redraw: Callable[[Rows, np.random.Generator], Rows] = lambda rows, _: rows


FITTINGS = {
    "recommendation": Fitting(epochs=8, learning_rate=0.006, batch_size=8192, redraw=with_new_negatives),
    "credit": Fitting(epochs=12, learning_rate=0.003, batch_size=256),
    "diagnosis": Fitting(epochs=15, learning_rate=0.001, batch_size=64),
}


def fit(network: tf_keras.Model, rows: Rows, fitting: Fitting, seed: int, show_progress: bool) -> None:
    """Fit ``network`` in place on the training rows."""
    rng = np.random.default_rng(seed)
    steps = fitting.epochs * -(-len(rows["y"]) // fitting.batch_size)
    decay = tf_keras.optimizers.schedules.CosineDecay(fitting.learning_rate, steps, alpha=0.05)
    network.compile(tf_keras.optimizers.Adam(decay), "binary_crossentropy")
    for epoch in range(fitting.epochs):
        drawn = fitting.redraw(rows, rng)
        inputs = {name: drawn[name] for name in network.input_names}
        network.fit(
            inputs,
            drawn["y"],
            sample_weight=drawn.get("weight"),
            batch_size=fitting.batch_size,
            initial_epoch=epoch,
            epochs=epoch + 1,
            verbose=1 if show_progress else 0,
        )
