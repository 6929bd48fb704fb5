"""The constants that a model file calculates with: what they are, who reads them, and the file with one changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pipeline.core.tensors import Array, Tensors


@dataclass(frozen=True)
class Constant:
    """One constant: its place among the file's constants, and its bytes as little-endian items of ``item_bytes``.

    ``operator`` is the kind of operator that reads it. ``entries`` counts the rows of a table that is looked up by
    row, and is None for any other constant.
    """

    place: int
    name: str
    operator: str
    data: bytes
    item_bytes: int
    high_bits: int  # the sign bit of each number in an item: two for 4-bit numbers, two of which share a byte
    entries: int | None = None


class ModelFile(Protocol):
    """A model file that can be read and changed constant by constant."""

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Return the constants that operators calculate with, in file order: not shapes, paddings or scales."""
        ...

    def changed(self, constant: Constant, data: bytes) -> bytes:
        """Return the model's bytes with one constant's bytes replaced by as many others."""
        ...

    def lookups(self, inputs: Tensors) -> Mapping[str, Array]:
        """Return which entries of every table the rows look up, by the constant's name. Raises ModelError."""
        ...


def high_bits(item_bytes: int, bits: int) -> int:
    """Return the mask of the highest bit of every ``bits``-bit number in an item."""
    return sum(1 << (end - 1) for end in range(bits, 8 * item_bytes + 1, bits))
