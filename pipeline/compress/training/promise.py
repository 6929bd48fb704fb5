"""Whether a tuned model keeps what its variant's name promises: zeros counted, distinct values counted."""

from collections.abc import Sequence

import numpy as np

from pipeline.compress.training.clusters import Weights, distinct_count
from pipeline.compress.training.masks import GROUP
from pipeline.core.errors import VariantRefused
from pipeline.core.names import Pruning, Variant

_ZEROS_MISSING_MAX = 0.01


def require_zeros(name: str, tensors: Sequence[Weights], variant: Variant, sparsity: float) -> None:
    """Raise VariantRefused when pruned tensors hold fewer zeros than ``sparsity`` (0..1), or outside the pattern."""
    zeros = sum(int((values == 0).sum()) for values in tensors) / sum(values.size for values in tensors)
    if zeros < sparsity - _ZEROS_MISSING_MAX:
        raise VariantRefused(
            f"{name} holds {zeros:.1%} zeros in its pruned layers where {sparsity:.0%} are asked: "
            f"its fine-tuning is too short; raise variants.{name}.epochs or lower batch_size."
        )
    if variant.pruning is Pruning.TWO_OF_FOUR and any(_most_of_four(values) > GROUP // 2 for values in tensors):
        raise VariantRefused(f"{name} holds more than two weights in a group of four; report this.")


def require_clusters(name: str, tensors: dict[str, Weights], count: int) -> None:
    """Raise VariantRefused when a tensor (by name) holds more than ``count`` distinct values."""
    for tensor, values in tensors.items():
        found = distinct_count(values)
        if found > count:
            raise VariantRefused(
                f"{name} holds {found} distinct values in {tensor} where at most {count} are asked; "
                f"lower variants.{name}.learning_rate, or take the clusters out of its name."
            )


def _most_of_four(values: Weights) -> int:
    groups = values.reshape(*values.shape[:-2], values.shape[-2] // GROUP, GROUP, values.shape[-1])
    return int(np.count_nonzero(groups, axis=-2).max())
