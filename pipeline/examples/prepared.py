"""What an example prepares: four splits of named arrays, and how the raw values became features."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.core.tensors import Array
from pipeline.examples.download import Source
from pipeline.examples.tables import Preparation

SPLITS = ("train", "calibration", "validation", "test")


@dataclass(frozen=True)
class Prepared:
    """Splits by name (see ``SPLITS``), each with ``y``, perhaps ``group``, and the model's inputs."""

    splits: Mapping[str, Mapping[str, Array]]
    preparation: Preparation | None = None


@dataclass(frozen=True)
class Example:
    """One example: its data, the pure function (file bytes, seed) that prepares it, and the seed of all its chances.

    The seed is fixed and no part of the recipe: another seed there must not deal the rows out anew.
    """

    source: Source
    prepare: Callable[[bytes, int], Prepared]
    seed: int
