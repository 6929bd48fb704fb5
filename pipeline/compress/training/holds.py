"""What keeps a weight tensor's promise while it learns: its zeros stay zero, its clusters stay equal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.compress.training.clusters import Indices
from pipeline.compress.training.masks import Mask
from pipeline.compress.training.weights import Weight
from pipeline.core.tensors import Array


class Hold:
    """A projection of one tensor: clusters are set to their mean, masked weights to zero.

    Gradients and weights go through the same projection, so Adam sees the gradient of the shared value.
    """

    def __init__(self, weight: Weight, clusters: Indices | None = None) -> None:
        shape = weight.variable.shape
        self.weight = weight
        self.mask = tf.Variable(tf.ones(shape, tf.bool), trainable=False)
        self._index = None if clusters is None else tf.constant(clusters.ravel())
        self._sizes = None if clusters is None else tf.constant(np.bincount(clusters.ravel()), tf.float32)

    @property
    def values(self) -> Array:
        """Return the tensor's present values."""
        return np.asarray(self.weight.variable)

    def renew(self, mask: Mask) -> None:
        """Set the mask, and the weights outside it to zero."""
        self.mask.assign(mask)
        self.apply()

    def apply(self) -> None:
        """Project the weights."""
        self.weight.variable.assign(self.project(self.weight.variable))

    def project(self, values: Any) -> Any:
        """Project a tensor of the weights' shape."""
        found = tf.convert_to_tensor(values)
        if self._index is not None:
            sums = tf.math.unsorted_segment_sum(tf.reshape(found, [-1]), self._index, tf.size(self._sizes))
            means = tf.math.divide_no_nan(sums, tf.cast(self._sizes, sums.dtype))
            found = tf.reshape(tf.gather(means, self._index), found.shape)
        # Not a product: a negative weight times zero is -0.0, four more bytes to compress.
        return tf.where(self.mask, found, tf.zeros_like(found))


def rounded(values: Any) -> Any:
    """Round a kernel as int8 storage will: 255 symmetric steps for each output channel."""
    axes = list(range(len(values.shape) - 1))
    scale = tf.reduce_max(tf.abs(values), axis=axes, keepdims=True) / 127
    return tf.round(tf.math.divide_no_nan(values, scale)) * scale


def hold_variables(holds: Sequence[Hold]) -> list[Any]:
    """List the variables of holds, which a checkpoint must keep."""
    return [hold.mask for hold in holds]
