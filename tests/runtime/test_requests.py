import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.runtime.arena import Arena
from pipeline.runtime.frames import BadFrame
from pipeline.runtime.requests import pack_answer, pack_request, unpack_answer, unpack_request

BIG = np.arange(40_000, dtype=np.float32).reshape(4, 10_000)
SMALL = np.arange(4, dtype=np.int32)


@pytest.fixture
def arena() -> Arena:
    return Arena.create(1 << 20)


def test_large_tensors_go_through_the_arena_and_come_out_equal(arena: Arena) -> None:
    payload, slot = pack_request({"big": BIG, "small": SMALL}, arena)
    assert slot is not None
    assert len(payload) < 1000
    other = Arena.open(arena.fd)  # as the worker maps it
    inputs, lent = unpack_request(payload, other)
    assert np.array_equal(inputs["big"], BIG)
    assert np.array_equal(inputs["small"], SMALL)
    assert len(lent) >= BIG.nbytes


def test_large_outputs_overwrite_the_inputs_and_outlive_the_slot(arena: Arena) -> None:
    payload, slot = pack_request({"big": BIG}, arena)
    _, lent = unpack_request(payload, Arena.open(arena.fd))
    answer = pack_answer({"y": BIG + 1, "z": SMALL}, 2.5, lent)
    assert len(answer) < 1000
    assert slot is not None
    outputs, engine_ms = unpack_answer(answer, arena.bytes_at(slot, arena.slot_end(slot)))
    arena.bytes_at(0, arena.size)[:] = bytes(arena.size)
    assert engine_ms == 2.5
    assert np.array_equal(outputs["y"], BIG + 1)
    assert np.array_equal(outputs["z"], SMALL)


def test_outputs_larger_than_the_slot_and_outputs_that_are_the_inputs_go_inline(arena: Arena) -> None:
    payload, slot = pack_request({"big": BIG}, arena)
    inputs, lent = unpack_request(payload, arena)
    assert slot is not None
    own = arena.bytes_at(slot, arena.slot_end(slot))
    huge = np.concatenate([BIG, BIG])
    assert np.array_equal(unpack_answer(pack_answer({"y": huge}, 0, lent), own)[0]["y"], huge)
    assert np.array_equal(unpack_answer(pack_answer({"y": inputs["big"]}, 0, lent), own)[0]["y"], BIG)


def test_what_cannot_be_sent_leaves_no_slot_lent(arena: Arena) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        pack_request({"big": BIG, "odd": np.array(["text"])}, arena)
    assert arena.lent == 0


def test_a_full_arena_sends_inline(arena: Arena) -> None:
    arena.take(arena.size)
    payload, slot = pack_request({"big": BIG}, arena)
    assert slot is None
    assert np.array_equal(unpack_request(payload, arena)[0]["big"], BIG)


def test_an_answer_cannot_reach_outside_its_own_slot(arena: Arena) -> None:
    first, _ = pack_request({"big": BIG}, arena)
    _, second = pack_request({"big": BIG}, arena)
    _, whole = unpack_request(first, arena)
    answer = pack_answer({"y": BIG}, 0.0, whole)
    assert second is not None
    with pytest.raises(BadFrame, match="beyond"):
        unpack_answer(answer, arena.bytes_at(second, second + 4096))


@given(st.binary(max_size=120))
def test_any_bytes_are_a_message_or_a_bad_frame(payload: bytes) -> None:
    arena = Arena.create(4096)
    for read in (lambda: unpack_request(payload, arena), lambda: unpack_answer(payload, arena.bytes_at(0, 4096))):
        with contextlib.suppress(BadFrame):
            read()
    arena.close()


@settings(max_examples=30)
@given(st.lists(st.one_of(st.integers(1, 40_000), st.none()), max_size=40), st.randoms())
def test_no_byte_is_lent_twice(steps: list[int | None], random: object) -> None:
    arena = Arena.create(1 << 17)
    lent: dict[int, int] = {}
    for size in steps:
        if size is None and lent:
            start = random.choice(sorted(lent))  # type: ignore[attr-defined]
            arena.free(start)
            del lent[start]
        elif size is not None and (start := arena.take(size)) is not None:
            end = arena.slot_end(start)
            assert end - start >= size
            assert end <= arena.size
            assert all(end <= other or start >= other_end for other, other_end in lent.items())
            lent[start] = end
    assert arena.lent == len(lent)
    for start in lent:
        arena.free(start)
    assert arena.take(1 << 17) == 0
    arena.close()


def test_freeing_what_is_not_lent_is_a_bug_that_shows(arena: Arena) -> None:
    with pytest.raises(ValueError, match="no slot"):
        arena.free(0)
    with pytest.raises(ValueError, match="no slot"):
        arena.slot_end(0)
