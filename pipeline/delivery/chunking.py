"""Bytes to content-defined chunks: a change in the middle of a file leaves all chunks but its neighbours as they were.

FastCDC (Xia et al., "FastCDC: a Fast and Efficient Content-Defined Chunking Approach for Data Deduplication", USENIX
ATC 2016): a gear hash over a window of 32 bytes, cut points skipped below a quarter of the average, a harder condition
before the average and an easier one behind it. Here the hash is not started anew at each chunk and is computed for a
whole block at once: the window's sum by doubling, 1, 2, 4 … 32 bytes.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

AVERAGE_BITS_MIN = 12
AVERAGE_BITS_MAX = 20

_PARTS = 2048
_WINDOW = 32
_HASH_BITS = 32
_BLOCK = 1 << 22
_IN_CACHE = 1 << 16

# Any fixed table of random numbers will do; this one can be made again from its definition.
_GEAR = np.array(
    [int.from_bytes(hashlib.sha256(bytes([value])).digest()[:4], "big") for value in range(256)], np.uint32
)


@dataclass(frozen=True)
class Chunk:
    """A piece of a file."""

    offset: int
    data: bytes


def average_bits(size: int) -> int:
    """Return log2 of the average chunk for a file of ``size`` bytes: a 2048th to a 4096th of it, 4 KiB to 1 MiB.

    A power of two, so that a file that grew a little is still cut where it was.
    """
    return min(AVERAGE_BITS_MAX, max(AVERAGE_BITS_MIN, (size // _PARTS).bit_length() - 1))


def chunk_stream(stream: BinaryIO, bits: int) -> Iterator[Chunk]:
    """Yield a stream's chunks in order, of 2**bits bytes on average, a quarter of that at least and four times at most.

    Only the last one may be smaller. Holds a few chunks at a time. Raises OSError as the stream does.
    """
    least, average, most = _sizes(bits)
    held, offset, is_end = b"", 0, False
    while not is_end or held:
        block = b"" if is_end else stream.read(max(_BLOCK, 4 * most))
        is_end, held, start = not block, held + block, 0
        harder, easier = _cut_points(held, bits)
        while start < len(held) and (is_end or len(held) - start >= most):
            end = _cut(start, len(held), harder, easier, (least, average, most))
            yield Chunk(offset, held[start:end])
            offset, start = offset + end - start, end
        held = held[start:]


def _sizes(bits: int) -> tuple[int, int, int]:
    if not AVERAGE_BITS_MIN <= bits <= AVERAGE_BITS_MAX:
        raise ValueError(f"an average of 2**{bits} bytes")
    return 1 << (bits - 2), 1 << bits, 4 << bits


def _cut(start: int, end: int, harder: list[int], easier: list[int], sizes: tuple[int, int, int]) -> int:
    """Return where the chunk that begins at ``start`` ends."""
    least, average, most = sizes
    first = bisect_left(harder, start + least)
    if first < len(harder) and harder[first] < start + average:
        return harder[first]
    then = bisect_left(easier, start + average)
    if then < len(easier) and easier[then] < start + most:
        return easier[then]
    return min(end, start + most)


def _cut_points(data: bytes, bits: int) -> tuple[list[int], list[int]]:
    """Return every place behind which the hash allows a cut: by the harder and by the easier condition."""
    harder, easier = [], []
    view = np.frombuffer(data, np.uint8)
    for start in range(0, len(data), _IN_CACHE):
        before = min(start, _WINDOW - 1)
        hashes = _hashes(view[start - before : start + _IN_CACHE])[before:]
        found = np.flatnonzero(hashes < np.uint32(1 << (_HASH_BITS - bits + 1)))
        strict = hashes[found] < np.uint32(1 << (_HASH_BITS - bits - 1))
        easier.extend((found + start + 1).tolist())
        harder.extend((found[strict] + start + 1).tolist())
    return harder, easier


def _hashes(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the gear hash behind every byte: the sum of gear[byte] << distance over the window, modulo 2**32."""
    hashes = _GEAR[data]
    width = 1
    while width < _WINDOW:
        hashes[width:] += hashes[:-width] << np.uint32(width)  # the right side is whole before the left one changes
        width *= 2
    return hashes
