"""Phases of Keras 2 models by tensorflow-model-optimization: magnitude pruning, clustering, quantization awareness.

tfmot wraps a copy; what the copy learnt is written back by layer and weight name. tfmot raises for what it cannot
take, and then the native phases do.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import (
    cluster_weights as cluster_weights_sparsely,
)

from pipeline.compress.training.clusters import distinct_count
from pipeline.compress.training.holds import Hold
from pipeline.compress.training.phases import CLUSTER, PRUNE, Phase, as_it_is, prunes
from pipeline.compress.training.schedule import ramp_to
from pipeline.compress.training.weights import Weight, able_weights, raw
from pipeline.core.names import Pruning, Variant

_QAT_LAYERS = (keras.layers.Dense, keras.layers.Conv2D)
_QAT_ACTIVATIONS = {"linear", "relu", "sigmoid", "softmax", "tanh", "swish", "gelu"}
_PRUNED = ("Dense", "Conv1D", "Conv2D", "Conv2DTranspose", "Embedding")
_CLUSTERED = ("Dense", "Conv1D", "Conv2D", "Conv2DTranspose", "Embedding")


def tfmot_phase(name: str, model: Any, variant: Variant, sparsity: float, steps: int) -> Phase:
    """Set up a phase by tfmot; raises ValueError for a model or a variant that it cannot take as a whole."""
    if name == PRUNE:
        return _pruning(model, variant, sparsity, steps)
    return _clustering(model, variant) if name == CLUSTER else _quantizing(model, variant)


def _copied(model: Any) -> Any:
    """Copy a model with its weights; raises ValueError for layers that cannot be copied."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _wrapped(model: Any, names: set[str], wrap: Callable[[Any], Any]) -> Any:
    return keras.models.clone_model(
        _copied(model), clone_function=lambda layer: wrap(layer) if layer.name in names else layer
    )


def _names(model: Any, variant: Variant, kinds: tuple[str, ...]) -> set[str]:
    """Name the layers to wrap; raises ValueError when tfmot cannot reach every weight that is to be compressed."""
    weights = able_weights(model, variant.pruning)
    top = {id(layer) for layer in model.layers}
    foreign = [weight.name for weight in weights if not (_kind(weight) in kinds and id(weight.layer) in top)]
    if foreign or not weights:
        raise ValueError(f"tfmot does not reach {', '.join(foreign) or 'any layer'}")
    return {weight.layer.name for weight in weights}


def _kind(weight: Weight) -> str:
    return type(weight.layer).__name__


def _pruning(model: Any, variant: Variant, sparsity: float, steps: int) -> Phase:
    if variant.pruning is not Pruning.MAGNITUDE:
        raise ValueError("only single weights are pruned by tfmot")
    ramp = ramp_to(sparsity, steps)
    schedule = tfmot.sparsity.keras.PolynomialDecay(ramp.initial, ramp.final, 0, ramp.end, 3, ramp.frequency)
    wrapped = _wrapped(
        model,
        _names(model, variant, _PRUNED),
        lambda layer: tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule),
    )
    update = tfmot.sparsity.keras.UpdatePruningStep()
    update.set_model(wrapped)
    update.on_train_begin()

    def before_step(step: int) -> None:
        for layer in update.prunable_layers:
            layer.pruning_step.assign(step)

    def finish() -> Any:
        update.on_epoch_end(0)  # masks what the last step moved
        return _written_back(tfmot.sparsity.keras.strip_pruning(wrapped), model)

    return Phase(wrapped, finish, _path(), before_step=before_step, settled_at=ramp.end)


def _clustering(model: Any, variant: Variant) -> Phase:
    init = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    keeps_zeros = prunes(variant)
    wrapped = _wrapped(
        model,
        _names(model, variant, _CLUSTERED),
        lambda layer: cluster_weights_sparsely(layer, variant.clusters, init, preserve_sparsity=keeps_zeros),
    )

    def finish() -> Any:
        return _snapped(_written_back(tfmot.clustering.keras.strip_clustering(wrapped), model), variant)

    return Phase(wrapped, finish, _path())


def _quantizing(model: Any, variant: Variant) -> Phase:
    """Annotate dense and convolution layers alone: one layer that tfmot does not know would abort the whole model."""
    known = {
        layer.name
        for layer in model.layers
        if type(layer) in _QAT_LAYERS and getattr(layer.activation, "__name__", "") in _QAT_ACTIVATIONS
    }
    if not known:
        raise ValueError("it has no dense or convolution layer")
    annotated = _wrapped(model, known, tfmot.quantization.keras.quantize_annotate_layer)
    scheme = _scheme(variant)
    with tfmot.quantization.keras.quantize_scope():
        wrapped = tfmot.quantization.keras.quantize_apply(annotated, *([scheme] if scheme else []))
    masks = [(weight.variable, np.asarray(weight.variable) != 0) for weight in able_weights(model)]

    def finish() -> Any:
        _written_back(wrapped, model)
        for variable, mask in masks if prunes(variant) else []:  # tfmot masks what it computes with, not what it stores
            variable.assign(tf.where(mask, variable, tf.zeros_like(variable)))
        return _snapped(model, variant)

    return Phase(wrapped, finish, _path(), _other_holds(model, wrapped, known, variant))


def _scheme(variant: Variant) -> Any:
    """Return the scheme that preserves what earlier phases made: zeros, clusters, or both."""
    was_pruned = prunes(variant)
    experimental = tfmot.experimental.combine
    if variant.clusters:
        return experimental.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=was_pruned)
    return experimental.Default8BitPrunePreserveQuantizeScheme() if was_pruned else None


def _other_holds(model: Any, wrapped: Any, known: set[str], variant: Variant) -> list[Hold]:
    """Hold what tfmot does not preserve: tables, one-dimensional convolutions, layers that it does not quantize."""
    if not prunes(variant) and not variant.clusters:
        return []
    others = [weight for weight in able_weights(model) if weight.layer.name not in known]
    top = {id(layer) for layer in model.layers}
    if any(id(weight.layer) not in top for weight in others):
        raise ValueError("tfmot would let what lies inside other layers lose its zeros or clusters")
    return [as_it_is(_same(weight, wrapped), variant) for weight in others]


def _snapped(model: Any, variant: Variant) -> Any:
    """Share values again where tfmot left more than were asked: it counts no zero cluster where no centroid is zero."""
    for weight in able_weights(model) if variant.clusters else []:
        if distinct_count(np.asarray(weight.variable)) > (variant.clusters or 0):
            as_it_is(weight, variant).apply()
    return model


def _same(weight: Weight, model: Any) -> Weight:
    """Return the weight of the same name in a copy."""
    layer = model.get_layer(weight.layer.name)
    return Weight(layer, weight.attribute, raw(getattr(layer, weight.attribute)))


def _written_back(tuned: Any, model: Any) -> Any:
    """Copy tuned weights into the plain model's own layers, so that every scheme starts from plain layers."""
    layers = {layer.name: layer for layer in tuned.layers}
    for layer in model.layers:
        source = layers.get(f"quant_{layer.name}", layers.get(layer.name))
        if source is not None and layer.weights:
            values = {_short(weight): weight.numpy() for weight in source.weights}
            layer.set_weights([values[_short(weight)] for weight in layer.weights])
    return model


def _short(weight: Any) -> str:
    return str(weight.name).rpartition("/")[2].partition(":")[0]


def _path() -> str:
    return f"tfmot {tfmot.__version__}"
