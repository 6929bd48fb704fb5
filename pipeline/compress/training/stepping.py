"""One training step, alone or spread over the replicas of a tf.distribute strategy; the same for both libraries.

Adam is written out: the optimizers of the two libraries differ in how they add up gradients of replicas and in where
they keep their state, and a checkpoint must hold all of it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.compress.training.feeding import Batch
from pipeline.compress.training.holds import rounded
from pipeline.compress.training.objective import Objective
from pipeline.compress.training.phases import Phase
from pipeline.compress.training.schedule import shard_bounds
from pipeline.compress.training.weights import flat_layers, raw

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-7


def ask(model: Any, inputs: Sequence[Any], training: bool) -> list[Any]:
    """Return a model's outputs, in its order, for inputs in its order."""
    outputs = model(list(inputs) if len(inputs) > 1 else inputs[0], training=training)
    return [tf.cast(output, tf.float32) for output in tf.nest.flatten(outputs)]


class Stepper:
    """Trains the model of a phase a batch at a time. Make and use it outside ``strategy.scope()``."""

    def __init__(self, phase: Phase, teacher: Any, objective: Objective, learning_rate: float, strategy: Any) -> None:
        self._phase, self._teacher, self._objective = phase, teacher, objective
        self._learning_rate, self._strategy = learning_rate, strategy
        self.replicas = int(strategy.num_replicas_in_sync)
        self._trained = [raw(variable) for variable in phase.model.trainable_variables]
        self._holds = {id(hold.weight.variable): hold for hold in phase.holds}
        with strategy.scope():
            self._count = tf.Variable(0.0, trainable=False)
            self._means = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self._trained]
            self._squares = [tf.Variable(tf.zeros(v.shape), trainable=False) for v in self._trained]
        self._train = tf.function(self._train_step, reduce_retracing=True)
        self._judge = tf.function(self._judge_step, reduce_retracing=True)

    @property
    def variables(self) -> list[Any]:
        """List the variables of the optimizer."""
        return [self._count, *self._means, *self._squares]

    def train(self, batch: Batch) -> Any:
        """Take one step; returns the batch's loss as a tensor."""
        return self._train(*self._spread(batch), tf.constant(batch.rows, tf.float32))

    def judge(self, batch: Batch) -> float:
        """Return the loss of a batch without learning from it."""
        return float(self._judge(*self._spread(batch), tf.constant(batch.rows, tf.float32)))

    def reseed(self, *seed: int) -> None:
        """Fix what dropout draws from here on."""
        number = int(np.random.default_rng(seed).integers(2**31))
        for index, layer in enumerate(flat_layers(self._phase.model)):
            source = getattr(layer, "_random_generator", None)  # Keras 2; Keras 3 keeps its seeds in variables
            if source is not None and hasattr(source, "_maybe_init"):
                with self._strategy.scope():
                    source._maybe_init()  # else the first call would: after a restart, one of another epoch
                source._generator.reset_from_seed(number + index)

    def _spread(self, batch: Batch) -> Any:
        """Give every replica its part of a batch."""
        if self.replicas == 1:
            return _tensors(batch)

        def part(context: Any) -> Any:
            return _tensors(batch.part(*shard_bounds(batch.rows, self.replicas, context.replica_id_in_sync_group)))

        return self._strategy.experimental_distribute_values_from_function(part)

    def _loss(self, inputs: Any, labels: Any, weights: Any, rows: Any, training: bool) -> Any:
        """Return a replica's share of the batch's loss."""
        floats = ask(self._teacher, inputs, training=False) if self._objective.distill_ratio > 0 else []
        losses = self._objective(ask(self._phase.model, inputs, training), floats, labels)
        return tf.reduce_sum(losses * weights) / rows

    def _train_step(self, inputs: Any, labels: Any, weights: Any, rows: Any) -> Any:
        floats = [tf.identity(variable) for variable in self._phase.rounded]
        for variable, values in zip(self._phase.rounded, floats, strict=True):
            variable.assign(rounded(values))  # straight through: gradients at the rounded weights move the float ones
        losses, gradients = self._strategy.run(self._gradients, args=(inputs, labels, weights, rows))
        for variable, values in zip(self._phase.rounded, floats, strict=True):
            variable.assign(values)
        self._adam([self._strategy.reduce("SUM", gradient, axis=None) for gradient in gradients])
        for hold in self._phase.holds:
            hold.apply()
        return self._strategy.reduce("SUM", losses, axis=None)

    def _gradients(self, inputs: Any, labels: Any, weights: Any, rows: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self._loss(inputs, labels, weights, rows, training=True)
            regular = [tf.cast(term, tf.float32) for term in self._phase.model.losses]
            total = loss + (tf.add_n(regular) / self.replicas if regular else 0.0)
        found = tape.gradient(total, self._trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return loss, [tf.convert_to_tensor(gradient) for gradient in found]

    def _judge_step(self, inputs: Any, labels: Any, weights: Any, rows: Any) -> Any:
        losses = self._strategy.run(self._loss, args=(inputs, labels, weights, rows, False))
        return self._strategy.reduce("SUM", losses, axis=None)

    def _adam(self, gradients: Sequence[Any]) -> None:
        self._count.assign_add(1.0)
        count = tf.convert_to_tensor(self._count)
        rate = self._learning_rate * tf.sqrt(1 - tf.pow(_BETA_2, count)) / (1 - tf.pow(_BETA_1, count))
        for variable, gradient, mean, square in zip(self._trained, gradients, self._means, self._squares, strict=True):
            hold = self._holds.get(id(variable))
            slope = gradient if hold is None else hold.project(gradient)
            mean.assign(_BETA_1 * mean + (1 - _BETA_1) * slope)
            square.assign(_BETA_2 * square + (1 - _BETA_2) * tf.square(slope))
            variable.assign(variable - rate * mean / (tf.sqrt(square) + _EPSILON))


def _tensors(batch: Batch) -> Any:
    labels = np.zeros((batch.rows, 1), np.float32) if batch.labels is None else batch.labels
    return tuple(tf.constant(values) for values in batch.inputs), tf.constant(labels), tf.constant(batch.weights)
