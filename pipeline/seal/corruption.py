"""Ways in which the weights in a process's memory go bad, applied to one constant's bytes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.seal.constants import Constant

Items = npt.NDArray[np.unsignedinteger]
Way = Callable[[Constant, Items, np.random.Generator], None]

_FLIPPED_RATIO = 0.05
_RUN_RATIO = 8  # an eighth of the constant
_RUN_BYTES_MAX = 4096  # a page


@dataclass(frozen=True)
class Corruption:
    """One way, and its number among all, which seeds it."""

    number: int
    way: Way

    def corrupt(self, constant: Constant, rng: np.random.Generator) -> bytes:
        """Return the constant's bytes, corrupted; as many as they were."""
        whole = len(constant.data) // constant.item_bytes * constant.item_bytes
        items = np.frombuffer(constant.data[:whole], f"<u{constant.item_bytes}").copy()
        self.way(constant, items, rng)
        return items.tobytes() + constant.data[whole:]


def corruptions(repeats: int) -> list[Corruption]:
    """Return every way, ``repeats`` times with seeds of its own."""
    ways = [flip_signs, zero_run, flip_high_bit] * repeats
    return [Corruption(number, way) for number, way in enumerate(ways)]


def flip_signs(constant: Constant, items: Items, rng: np.random.Generator) -> None:
    """Flip the sign bit of one number in twenty: copies made by a bad core."""
    chosen = rng.choice(items.size, max(1, int(_FLIPPED_RATIO * items.size)), replace=False)
    items[chosen] ^= items.dtype.type(constant.high_bits)


def zero_run(constant: Constant, items: Items, rng: np.random.Generator) -> None:
    """Zero a run of an eighth of the constant, at most a page: memory that was freed or never written."""
    length = max(1, min(items.size // _RUN_RATIO, _RUN_BYTES_MAX // constant.item_bytes))
    start = int(rng.integers(0, items.size - length + 1))
    items[start : start + length] = 0


def flip_high_bit(constant: Constant, items: Items, rng: np.random.Generator) -> None:
    """Flip one number's second highest bit, of a float the top of its exponent: one bit that memory lost."""
    items[int(rng.integers(0, items.size))] ^= items.dtype.type(constant.high_bits >> 1)
