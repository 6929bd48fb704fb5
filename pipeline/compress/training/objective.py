"""What fine-tuning minimizes: labels, the float model's own answers (distillation), or a blend of both.

Distillation follows Hinton et al. (2015) at temperature 1: Kullback-Leibler divergence where answers are
probabilities or logits of classes, mean squared error where they are numbers.
"""

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array

_TINY = 1e-7
_SUM_DIFFERENCE_MAX = 1e-3
_YES_NO_METRICS = (Metric.AUC, Metric.HIT_RATE_AT_10, Metric.NDCG_AT_10, Metric.ACCURACY)


class Kind(enum.StrEnum):
    """What the numbers of an output are."""

    PROBABILITIES = "probabilities"  # sum to one over the last axis
    LOGITS = "logits"
    CHANCES = "chances"  # each between 0 and 1
    NUMBERS = "numbers"


def kind_of(answers: Array, activation: str | None, metric: Metric) -> Kind:
    """Tell what an output (rows, …) is from answers to real rows, its last activation and the task's metric."""
    values = np.asarray(answers, np.float64)
    within = bool(values.min() >= -_TINY and values.max() <= 1 + _TINY)
    is_wide = values.ndim > 1 and values.shape[-1] > 1
    if within and is_wide and np.allclose(values.sum(axis=-1), 1, atol=_SUM_DIFFERENCE_MAX):
        return Kind.PROBABILITIES
    if activation == "sigmoid" or (within and not is_wide and metric in _YES_NO_METRICS):
        return Kind.CHANCES
    is_classes = metric is Metric.ACCURACY and values.ndim == 2 and is_wide
    return Kind.LOGITS if is_classes else Kind.NUMBERS


Loss = Callable[[Any, Any], Any]  # (what is wanted, answers) -> one value a row


@dataclass(frozen=True)
class Objective:
    """The loss of a batch. ``label_loss`` is None where labels cannot apply; then ``distill_ratio`` is 1."""

    kinds: tuple[Kind, ...]
    distill_ratio: float
    label_loss: Loss | None

    def __call__(self, answers: Sequence[Any], floats: Sequence[Any], labels: Any) -> Any:
        """Return one loss a row; ``floats`` are the float model's answers to the same rows."""
        total = 0.0
        if self.distill_ratio > 0:
            parts = [_DISTANCES[kind](*pair) for kind, *pair in zip(self.kinds, floats, answers, strict=True)]
            total += self.distill_ratio * tf.add_n([_a_row(part) for part in parts]) / len(parts)
        if self.label_loss is not None and self.distill_ratio < 1:
            total += (1 - self.distill_ratio) * _a_row(self.label_loss(labels, answers[0]))
        return total


def label_loss_of(kind: Kind, metric: Metric) -> Loss:
    """Return the loss against labels (rows, k) that an output of a kind and the task's metric suggest."""
    if metric is Metric.RMSE:
        return _squares
    return {Kind.PROBABILITIES: _of_class, Kind.LOGITS: _of_class_logits, Kind.CHANCES: _of_chance}.get(kind, _squares)


def compiled_loss(library: Any, compiled: Any, width: int) -> Loss | None:
    """Return the loss that a model with one output of ``width`` numbers was compiled with, or None if it has none."""
    if not compiled or isinstance(compiled, (dict, list, tuple)):
        return None
    loss = library.losses.get(compiled)
    call = getattr(loss, "call", loss)  # a Loss averages by itself; its call does not
    name = type(loss).__name__ + getattr(loss, "__name__", "")
    is_sparse = "sparse" in name.lower()
    in_classes = "categorical" in name.lower() and not is_sparse

    def of_batch(labels: Any, answers: Any) -> Any:
        if in_classes and labels.shape[-1] == 1:
            labels = tf.one_hot(_classes(labels), width)
        elif is_sparse:
            labels = _classes(labels)[:, None]
        return call(labels, answers)

    return of_batch


def _a_row(values: Any) -> Any:
    return tf.reduce_mean(tf.reshape(values, [tf.shape(values)[0], -1]), axis=1)


def _divergence(floats: Any, answers: Any) -> Any:
    wanted, found = (tf.clip_by_value(values, _TINY, 1.0) for values in (floats, answers))
    return tf.reduce_sum(wanted * (tf.math.log(wanted) - tf.math.log(found)), axis=-1)


def _divergence_of_logits(floats: Any, answers: Any) -> Any:
    wanted = tf.nn.log_softmax(floats)
    return tf.reduce_sum(tf.exp(wanted) * (wanted - tf.nn.log_softmax(answers)), axis=-1)


def _divergence_of_chances(floats: Any, answers: Any) -> Any:
    wanted, found = (tf.clip_by_value(values, _TINY, 1 - _TINY) for values in (floats, answers))
    yes = wanted * (tf.math.log(wanted) - tf.math.log(found))
    return yes + (1 - wanted) * (tf.math.log1p(-wanted) - tf.math.log1p(-found))


def _squares(wanted: Any, answers: Any) -> Any:
    return tf.square(tf.reshape(wanted, tf.shape(answers)) - answers)


def _classes(labels: Any) -> Any:
    """Return class numbers of labels (rows, 1), or of one-hot ones."""
    return tf.cast(labels[:, 0], tf.int32) if labels.shape[-1] == 1 else tf.argmax(labels, -1, tf.int32)


def _of_class(labels: Any, answers: Any) -> Any:
    picked = tf.gather(answers, _classes(labels), axis=1, batch_dims=1)
    return -tf.math.log(tf.clip_by_value(picked, _TINY, 1.0))


def _of_class_logits(labels: Any, answers: Any) -> Any:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(_classes(labels), answers)


def _of_chance(labels: Any, answers: Any) -> Any:
    wanted, found = tf.reshape(labels, tf.shape(answers)), tf.clip_by_value(answers, _TINY, 1 - _TINY)
    return -(wanted * tf.math.log(found) + (1 - wanted) * tf.math.log1p(-found))


_DISTANCES: dict[Kind, Loss] = {
    Kind.PROBABILITIES: _divergence,
    Kind.LOGITS: _divergence_of_logits,
    Kind.CHANCES: _divergence_of_chances,
    Kind.NUMBERS: _squares,
}
