"""The three example networks (Keras 2), with float inputs already prepared: each layer can be pruned by tfmot."""

from collections.abc import Callable, Mapping

import tf_keras
from tf_keras import layers, regularizers

from pipeline.core.tensors import Array
from pipeline.examples.recommendation import ITEMS, USERS

Rows = Mapping[str, Array]
EMBEDDING = 64


def recommendation(_: Rows) -> tf_keras.Model:
    """Neural matrix factorization: a product of embeddings beside a 128-64-32 perceptron (He et al., WWW 2017).

    Inputs ``user_id`` and ``item_id``: int32 (n,), from zero. Output ``score``: float32 (n, 1), 0..1.
    """
    user = tf_keras.Input((), dtype="int32", name="user_id")
    item = tf_keras.Input((), dtype="int32", name="item_id")
    product = layers.Multiply(name="gmf")([_embedding(USERS, "gmf_user")(user), _embedding(ITEMS, "gmf_item")(item)])
    deep = layers.Concatenate(name="mlp_input")(
        [_embedding(USERS, "mlp_user")(user), _embedding(ITEMS, "mlp_item")(item)]
    )
    for units in (128, 64, 32):
        deep = layers.Dense(units, activation="relu", name=f"mlp_{units}")(deep)
    both = layers.Concatenate(name="both")([product, deep])
    score = layers.Dense(1, activation="sigmoid", name="score")(both)
    return tf_keras.Model([user, item], score, name="recommendation")


def _embedding(rows: int, name: str) -> layers.Embedding:
    return layers.Embedding(rows, EMBEDDING, name=name)


def credit(train: Rows) -> tf_keras.Model:
    """Perceptron 256-128-64 with batch normalization and dropout.

    Input ``features``: float32 (n, k). Output ``probability``: float32 (n, 1), 0..1.
    """
    features = tf_keras.Input(train["features"].shape[1:], name="features")
    hidden = features
    for units in (256, 128, 64):
        hidden = layers.Dense(units, use_bias=False, name=f"dense_{units}")(hidden)
        hidden = layers.BatchNormalization(name=f"norm_{units}")(hidden)
        hidden = layers.ReLU(name=f"relu_{units}")(hidden)
        hidden = layers.Dropout(0.4, name=f"dropout_{units}")(hidden)
    probability = layers.Dense(1, activation="sigmoid", name="probability")(hidden)
    return tf_keras.Model(features, probability, name="credit")


def diagnosis(train: Rows) -> tf_keras.Model:
    """Perceptron 128-64-32 with dropout.

    Input ``features``: float32 (n, k). Output ``probability``: float32 (n, 1), 0..1.
    """
    features = tf_keras.Input(train["features"].shape[1:], name="features")
    hidden = features
    for units in (128, 64, 32):
        hidden = layers.Dense(units, "relu", kernel_regularizer=regularizers.L2(0.001), name=f"dense_{units}")(hidden)
        hidden = layers.Dropout(0.4, name=f"dropout_{units}")(hidden)
    probability = layers.Dense(1, activation="sigmoid", name="probability")(hidden)
    return tf_keras.Model(features, probability, name="diagnosis")


NETWORKS: dict[str, Callable[[Rows], tf_keras.Model]] = {
    "recommendation": recommendation,
    "credit": credit,
    "diagnosis": diagnosis,
}
