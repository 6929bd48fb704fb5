"""Small models of either Keras drawn at random: residual sums, joins, gates, depthwise, embeddings, nested models.

Every activation keeps zero at zero, so that a channel whose weights are zero is as good as removed.
"""

from typing import Any

import numpy as np

from pipeline.core.tensors import Array

IDS = 11


class Drawer:
    """Draws a model of the library ``keras`` (the module keras or tf_keras)."""

    def __init__(self, keras: Any, seed: int) -> None:
        self.keras, self.layers, self.rng = keras, keras.layers, np.random.default_rng(seed)

    def model(self) -> Any:
        image, ids = self.keras.Input((8, 8, 3), name="image"), self.keras.Input((), dtype="int32", name="ids")
        x = self._block(image)
        for _ in range(int(self.rng.integers(2, 5))):
            x = self._one_of(x)
        x = self._vector(x)
        x = self.layers.Concatenate()([x, self._looked_up(ids)])
        x = self.layers.Dense(16, activation="relu")(x)
        label = self.layers.Dense(3, name="label")(x)
        score = self.layers.Dense(1, name="score")(x)
        return self._with_random_weights(self.keras.Model([image, ids], [label, score], name="drawn"))

    def _width(self) -> int:
        return int(self.rng.choice([8, 12, 16]))

    def _one_of(self, x: Any) -> Any:
        ways = [
            self._block,
            self._residual,
            self._join,
            self._gate,
            self._depthwise,
            self._separable,
            self._up,
            self._nested,
        ]
        return ways[int(self.rng.integers(len(ways)))](x)

    def _block(self, x: Any, width: int | None = None) -> Any:
        x = self.layers.Conv2D(width or self._width(), 3, padding="same", use_bias=bool(self.rng.integers(2)))(x)
        x = self.layers.BatchNormalization()(x)
        return self.layers.ReLU()(x)

    def _residual(self, x: Any) -> Any:
        y = self._block(self._block(x), x.shape[-1])
        return self.layers.Activation("relu")(self.layers.Add()([x, y]))

    def _join(self, x: Any) -> Any:
        return self.layers.Concatenate()([x, self._block(x), self.layers.MaxPooling2D(3, 1, padding="same")(x)])

    def _gate(self, x: Any) -> Any:
        gate = self.layers.GlobalAveragePooling2D()(x)
        gate = self.layers.Dense(8, activation="relu")(gate)
        gate = self.layers.Dense(x.shape[-1], activation="relu")(gate)
        return self.layers.Multiply()([x, self.layers.Reshape((1, 1, x.shape[-1]))(gate)])

    def _depthwise(self, x: Any) -> Any:
        x = self.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=int(self.rng.integers(1, 3)))(x)
        return self.layers.PReLU(shared_axes=[1, 2])(x)

    def _separable(self, x: Any) -> Any:
        return self.layers.SeparableConv2D(self._width(), 3, padding="same", depth_multiplier=2, activation="relu")(x)

    def _up(self, x: Any) -> Any:
        x = self.layers.AveragePooling2D(2)(x)
        return self.layers.Conv2DTranspose(self._width(), 4, strides=2, padding="same", activation="relu")(x)

    def _nested(self, x: Any) -> Any:
        inner = self.keras.Input(x.shape[1:])
        y = self.layers.Conv2D(8, 3, padding="same", activation="relu")(inner)
        shared = self.layers.Conv2D(8, 1, activation="relu")
        return self.keras.Model(inner, self.layers.Average()([y, shared(shared(y))]))(x)

    def _vector(self, x: Any) -> Any:
        if self.rng.integers(2):
            return self.layers.GlobalMaxPooling2D()(x)
        return self.layers.Flatten()(self.layers.MaxPooling2D(4)(x))

    def _looked_up(self, ids: Any) -> Any:
        tables = [self.layers.Embedding(IDS, 12)(ids) for _ in range(2)]
        both = self.layers.Multiply()(tables)
        dot = self.layers.Dot(axes=1)(tables)
        return self.layers.Concatenate()([both, dot])

    def _with_random_weights(self, model: Any) -> Any:
        """Make biases and moments other than 0 and 1, which would hide a mistake."""
        for weight in model.weights:
            values = np.asarray(weight)
            if np.ptp(values) == 0:
                weight.assign(self.rng.uniform(0.2, 0.8, values.shape).astype(np.float32))
        return model


def drawn_rows(rows: int, seed: int) -> dict[str, Array]:
    """Return inputs of a drawn model."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(rows, 8, 8, 3)).astype(np.float32)
    return {"image": image, "ids": rng.integers(0, IDS, rows, dtype=np.int32)}
