"""Chunks: they give the bytes again, keep their bounds, and stay the same around a change."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.delivery import chunking
from pipeline.delivery.chunking import AVERAGE_BITS_MAX, AVERAGE_BITS_MIN, average_bits, chunk_stream

# Noise, and what models are full of: one byte again and again, few values, repeated rows.
KINDS = ("noise", "zeros", "few", "repeated")


def made(kind: str, size: int, seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    if kind == "zeros":
        return bytes(size)
    if kind == "few":
        return rng.integers(0, 3, size, np.uint8).tobytes()
    if kind == "repeated":
        return (rng.bytes(997) * (size // 997 + 1))[:size]
    return rng.bytes(size)


def chunks(data: bytes, bits: int = 12) -> list[bytes]:
    return [chunk.data for chunk in chunk_stream(io.BytesIO(data), bits)]


contents = st.builds(made, st.sampled_from(KINDS), st.integers(0, 300_000), st.integers(0, 2**32))


@given(contents)
def test_chunks_in_their_order_are_the_bytes(data: bytes) -> None:
    found = list(chunk_stream(io.BytesIO(data), 12))
    assert b"".join(chunk.data for chunk in found) == data
    ends = np.cumsum([0, *(len(chunk.data) for chunk in found)])
    assert [chunk.offset for chunk in found] == ends[:-1].tolist()


@given(contents)
def test_every_chunk_but_the_last_keeps_the_bounds(data: bytes) -> None:
    sizes = [len(chunk) for chunk in chunks(data)]
    assert all(1 << 10 <= size <= 1 << 14 for size in sizes[:-1])
    assert all(1 <= size <= 1 << 14 for size in sizes[-1:])


@given(contents, st.integers(5_000, 100_000))
def test_where_a_block_of_the_stream_ends_changes_no_cut(data: bytes, block: int) -> None:
    class Stuttering(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            return super().read(block)

    found = [chunk.data for chunk in chunk_stream(Stuttering(data), 12)]
    assert found == chunks(data)


@given(st.integers(0, 2**32), st.integers(0, 300_000), st.binary(min_size=1, max_size=500), st.booleans())
def test_an_insertion_or_a_change_leaves_all_but_a_few_chunks(seed: int, at: int, new: bytes, insert: bool) -> None:
    data = made("noise", 300_000, seed)
    changed = data[:at] + new + data[at if insert else at + len(new) :]
    lost = set(chunks(changed)) - set(chunks(data))
    # The changed one; further ones only until the cuts meet again, which takes one or two chunks.
    assert len(lost) <= 8


def test_the_window_by_doubling_is_the_sum_over_32_bytes() -> None:
    data = made("noise", 500, 3)
    told = chunking._hashes(np.frombuffer(data, np.uint8))
    gear = [int(value) for value in chunking._GEAR]
    for at in (0, 1, 30, 31, 32, 499):
        window = data[max(0, at - 31) : at + 1]
        expected = sum(gear[byte] << (len(window) - 1 - place) for place, byte in enumerate(window)) % 2**32
        assert int(told[at]) == expected


def test_chunks_of_noise_are_about_the_average() -> None:
    sizes = [len(chunk) for chunk in chunks(made("noise", 4_000_000, 1), 13)]
    assert 0.8 * 2**13 < np.mean(sizes) < 1.3 * 2**13
    assert np.mean([size in (1 << 11, 1 << 15) for size in sizes]) < 0.01


@given(st.integers(0, 1 << 36))
def test_the_average_is_a_power_of_two_that_follows_the_size(size: int) -> None:
    bits = average_bits(size)
    assert AVERAGE_BITS_MIN <= bits <= AVERAGE_BITS_MAX
    if AVERAGE_BITS_MIN < bits < AVERAGE_BITS_MAX:
        assert 2048 <= size / 2**bits < 4096 + 1


@pytest.mark.parametrize("bits", [11, 21])
def test_other_averages_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="average"):
        chunks(b"abc", bits)
