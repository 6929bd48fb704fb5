"""What fine-tuning does to a model, one after another: prune or shrink, cluster, learn with rounded weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.compress.training.clusters import assign
from pipeline.compress.training.holds import Hold
from pipeline.compress.training.masks import Mask, Weights, block_mask, magnitude_mask, two_of_four_mask
from pipeline.compress.training.schedule import at_once, ramp_to
from pipeline.compress.training.weights import Weight, able_weights
from pipeline.core.names import Pruning, Variant

PRUNE, SETTLE, CLUSTER, QUANTIZE = "prune", "settle", "cluster", "quantize"


def _nothing(step: int) -> None:
    """Prepare nothing before a step."""


@dataclass(frozen=True)
class Phase:
    """A model ready to be trained; ``finish`` returns the plain model with what was learnt.

    ``settled_at`` is the first step (from 0) at which the promise holds in full.
    """

    model: Any
    finish: Callable[[], Any]
    path: str
    holds: Sequence[Hold] = ()
    rounded: Sequence[Any] = ()
    before_step: Callable[[int], None] = _nothing
    settled_at: int = 0
    variables: Sequence[Any] = field(default_factory=list)  # beside the model's and the holds'


def plan(variant: Variant) -> tuple[str, ...]:
    """Name a variant's phases; each takes all the epochs of the recipe."""
    first = {None: (), Pruning.STRUCTURED: (SETTLE,)}.get(variant.pruning, (PRUNE,))
    return (*first, *((CLUSTER,) if variant.clusters else ()), *((QUANTIZE,) if variant.quantization_aware else ()))


def native_phase(name: str, model: Any, variant: Variant, sparsity: float, steps: int, strategy: Any) -> Phase:
    """Set up a phase by masks, clusters and rounding of our own; ``sparsity`` 0..1, ``steps`` of the whole phase.

    Raises ValueError when the model holds nothing that the phase could work on.
    """
    weights = able_weights(model, variant.pruning)
    if name != SETTLE and not weights:
        raise ValueError("it has no layer that can be compressed so")
    with strategy.scope():
        if name == PRUNE:
            return _pruning(model, weights, variant, sparsity, steps)
        holds = [as_it_is(weight, variant) for weight in able_weights(model)] if name != SETTLE else []
    for hold in holds:
        hold.apply()
    kernels = [weight.variable for weight in able_weights(model)] if name == QUANTIZE else []
    words = {CLUSTER: "native clusters", QUANTIZE: "native rounding of weights", SETTLE: "native fine-tuning"}
    return Phase(model, lambda: model, words[name], holds, kernels)


def _pruning(model: Any, weights: Sequence[Weight], variant: Variant, sparsity: float, steps: int) -> Phase:
    holds = [Hold(weight) for weight in weights]
    ramp = (at_once if variant.pruning is Pruning.TWO_OF_FOUR else ramp_to)(sparsity, steps)

    def renew(step: int) -> None:
        if ramp.renews_at(step):
            for hold in holds:
                hold.renew(mask_of(hold.values, variant.pruning, ramp.sparsity_at(step)))

    return Phase(model, lambda: model, "native masks", holds, before_step=renew, settled_at=ramp.end)


def mask_of(values: Weights, pruning: Pruning | None, sparsity: float) -> Mask:
    """Return which weights a kind of pruning keeps."""
    if pruning is Pruning.TWO_OF_FOUR:
        return two_of_four_mask(values)
    return (block_mask if pruning is Pruning.BLOCK else magnitude_mask)(values, sparsity)


def prunes(variant: Variant) -> bool:
    """Tell whether a variant promises zeros."""
    return variant.pruning not in (None, Pruning.STRUCTURED)


def as_it_is(weight: Weight, variant: Variant) -> Hold:
    """Hold the zeros that pruning left, and the clusters: new ones, or those that clustering left."""
    values = np.asarray(weight.variable)
    hold = Hold(weight, assign(values, variant.clusters, prunes(variant)) if variant.clusters else None)
    if prunes(variant):
        hold.mask.assign(values != 0)
    return hold
