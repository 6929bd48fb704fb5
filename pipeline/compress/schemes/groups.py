"""What a search decides about: the weights of a float export that are stored in one number format together."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.names import Scheme

# Group name to its scheme; a group that is left out stays float32.
Assignment = Mapping[str, Scheme]


@dataclass(frozen=True)
class WeightGroup:
    """One operator with constant weights, or several that share them.

    ``name`` is unique in its file, printable and stable: equal exports give equal names. ``choices`` are the schemes
    that really change the file there, ``f32`` first.
    """

    name: str
    kind: str
    weight_count: int
    weight_bytes: int
    choices: tuple[Scheme, ...]
