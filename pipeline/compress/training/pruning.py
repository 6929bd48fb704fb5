"""Magnitude pruning of Keras 2 models by tfmot: which layers, how fast, and whether the promise was kept."""

import math
from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras as keras

from pipeline.compress.job import Job
from pipeline.core.errors import VariantRefused
from pipeline.core.names import sparsity_of

_UPDATES = 20  # of the mask, spread over the ramp
_RAMP = 0.6  # of all steps; the rest lets the weights that are left settle
_ZEROS_MISSING_MAX = 0.01
_CHANNELS_A_BLOCK = 4
_OUTPUT_RATIO_MIN = 0.05
_IN_BLOCKS = (keras.layers.Dense, keras.layers.Conv2D)
_BY_MAGNITUDE = (*_IN_BLOCKS, keras.layers.Embedding, keras.layers.Conv1D, keras.layers.Conv2DTranspose)


def with_pruning(model: Any, job: Job, rows: int) -> Any:
    """Wrap the layers that are to be pruned; the layers, and so their weights, are the model's own.

    Raises ValueError when there is none.
    """
    steps = math.ceil(rows / job.fine_tuning.batch_size) * job.fine_tuning.epochs
    chosen = {layer.name for layer in pruned_layers(model, job.variant)}
    if not chosen:
        raise ValueError("it has no layer that can be pruned")
    options = {"pruning_schedule": _schedule(job, steps)}
    if job.variant == "p24":
        options["sparsity_m_by_n"] = (2, _CHANNELS_A_BLOCK)

    def wrap(layer: Any) -> Any:
        return tfmot.sparsity.keras.prune_low_magnitude(layer, **options) if layer.name in chosen else layer

    return keras.models.clone_model(model, clone_function=wrap)


def without_pruning(wrapped: Any, job: Job) -> Any:
    """Take the wrappers off a fine-tuned model; raises VariantRefused when it holds fewer zeros than promised."""
    model = tfmot.sparsity.keras.strip_pruning(wrapped)
    kernels = [layer.get_weights()[0] for layer in pruned_layers(model, job.variant)]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    if zeros < asked_sparsity(job) - _ZEROS_MISSING_MAX:
        raise VariantRefused(
            f"{job.variant} holds {zeros:.1%} zeros in its pruned layers where {asked_sparsity(job):.0%} are asked: "
            f"its fine-tuning is too short; raise variants.{job.variant}.epochs or lower batch_size."
        )
    return model


def pruned_layers(model: Any, variant: str) -> list[Any]:
    """List the layers to prune, without a small output layer.

    The 96 output weights of the recommendation model are 0.03 % of its bytes; halving them cost 0.2 of HR@10, halving
    its tables, 95 % of its bytes, cost nothing.
    """
    able = [layer for layer in model.layers if _can_prune(layer, variant)]
    total = sum(layer.count_params() for layer in able)

    def is_small_output(layer: Any) -> bool:
        return layer.name in model.output_names and layer.count_params() < _OUTPUT_RATIO_MIN * total

    return [layer for layer in able if not is_small_output(layer)]


def _can_prune(layer: Any, variant: str) -> bool:
    """Tell whether tfmot prunes a layer's weights; blocks of four need channels in fours."""
    if variant == "p24":
        return type(layer) in _IN_BLOCKS and layer.kernel.shape[-2] % _CHANNELS_A_BLOCK == 0
    return type(layer) in _BY_MAGNITUDE


def _schedule(job: Job, steps: int) -> Any:
    ramp = max(1, int(steps * _RAMP))
    frequency = max(1, ramp // _UPDATES)
    if job.variant == "p24":  # its blocks fix the share of zeros, so there is no ramp
        return tfmot.sparsity.keras.ConstantSparsity(0.5, begin_step=0, frequency=frequency)
    final = asked_sparsity(job)
    return tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=final / 2,
        final_sparsity=final,
        begin_step=0,
        end_step=ramp // frequency * frequency,  # the mask is renewed at multiples: end on one, or the end is missed
        frequency=frequency,
    )


def asked_sparsity(job: Job) -> float:
    """Return the share of zeros (0..1) that the recipe asks for, or else the one that the variant's name promises."""
    asked = job.fine_tuning.sparsity
    return asked if asked is not None and job.variant != "p24" else sparsity_of(job.variant) or 0.0
