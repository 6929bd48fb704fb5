"""Fine-tuning of Keras 2 models: magnitude pruning and quantization-aware training, both stripped to plain layers."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras as keras

from pipeline.compress.job import Job, Step
from pipeline.compress.training.pruning import with_pruning, without_pruning
from pipeline.core.errors import VariantRefused
from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array, Tensors

OnStep = Callable[[Step], None]

_QAT_LAYERS = (keras.layers.Dense, keras.layers.Conv2D)
_QAT_ACTIVATIONS = {"linear", "relu", "sigmoid", "softmax", "tanh", "swish", "gelu"}


def tune(model: Any, job: Job, inputs: Tensors, labels: Array, on_step: OnStep) -> Any:
    """Fine-tune a compiled or uncompiled Keras 2 model into the job's variant; returns a model of the same layers.

    Raises VariantRefused when the model has nothing to tune, cannot be wrapped, or the loss becomes NaN.
    """
    try:
        wrapped = _quantize_aware(model) if job.variant == "qat" else with_pruning(model, job, len(labels))
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        brief = " ".join(str(error).split())[:200]
        raise VariantRefused(f"{job.variant} cannot be made of this model: {brief}.") from error
    _fit(wrapped, model, job, inputs, labels, on_step)
    if job.variant == "qat":
        return _without_wrappers(model, wrapped)
    return without_pruning(wrapped, job)


def _fit(wrapped: Any, model: Any, job: Job, inputs: Tensors, labels: Array, on_step: OnStep) -> None:
    setting = job.fine_tuning
    wrapped.compile(keras.optimizers.Adam(setting.learning_rate), loss_of(model, job.metric))
    callbacks = [_Progress(job.variant, setting.epochs, on_step), keras.callbacks.TerminateOnNaN()]
    if job.variant != "qat":
        callbacks.append(tfmot.sparsity.keras.UpdatePruningStep())
    shaped = labels.reshape(len(labels), 1) if model.output_shape[-1] == 1 else labels
    history = wrapped.fit(
        inputs, shaped, batch_size=setting.batch_size, epochs=setting.epochs, callbacks=callbacks, verbose=0
    )
    if not all(math.isfinite(loss) for loss in history.history["loss"]):
        raise VariantRefused(
            f"Fine-tuning {job.variant} diverged: its loss became NaN; "
            f"lower variants.{job.variant}.learning_rate ({setting.learning_rate:g})."
        )


def loss_of(model: Any, metric: Metric) -> Any:
    """Return the loss that the model was compiled with, or else the one that its metric and output suggest."""
    compiled = getattr(model, "loss", None)
    if compiled:
        return compiled
    if metric is Metric.RMSE:
        return keras.losses.MeanSquaredError()
    if model.output_shape[-1] == 1:
        return keras.losses.BinaryCrossentropy()
    return keras.losses.SparseCategoricalCrossentropy()


def _quantize_aware(model: Any) -> Any:
    """Annotate dense and convolution layers alone: one layer that tfmot does not know would abort the whole model."""

    def annotate(layer: Any) -> Any:
        known = type(layer) in _QAT_LAYERS and getattr(layer.activation, "__name__", "") in _QAT_ACTIVATIONS
        return tfmot.quantization.keras.quantize_annotate_layer(layer) if known else layer

    annotated = keras.models.clone_model(model, clone_function=annotate)
    if annotated.count_params() and not any(type(layer) in _QAT_LAYERS for layer in model.layers):
        raise ValueError("it has no dense or convolution layer")
    return tfmot.quantization.keras.quantize_apply(annotated)


def _without_wrappers(model: Any, wrapped: Any) -> Any:
    """Copy tuned weights back into the float model's own layers, so that every scheme starts from plain layers."""
    tuned = {layer.name: layer for layer in wrapped.layers}
    for layer in model.layers:
        source = tuned.get(f"quant_{layer.name}", tuned.get(layer.name))
        if source is not None and layer.weights:
            values = {_short(weight): weight.numpy() for weight in source.weights}
            layer.set_weights([values[_short(weight)] for weight in layer.weights])
    return model


def _short(weight: Any) -> str:
    return str(weight.name).rpartition("/")[2].partition(":")[0]


class _Progress(keras.callbacks.Callback):  # type: ignore[misc]  # tf_keras ships no types
    """Says how far the fine-tuning is, at most some fifty times."""

    def __init__(self, variant: str, epochs: int, on_step: OnStep) -> None:
        super().__init__()
        self._variant, self._epochs, self._on_step, self._epoch = variant, epochs, on_step, 0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002 - Keras names it
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002 - Keras names it
        steps = self.params["steps"]
        total = steps * self._epochs
        done = self._epoch * steps + batch + 1
        if done == total or done % max(1, total // 50) == 0:
            self._on_step(Step(f"epoch {self._epoch + 1} of {self._epochs}", done, total))
