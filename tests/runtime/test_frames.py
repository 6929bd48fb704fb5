import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.runtime.frames import (
    HEADER,
    PAYLOAD_BYTES_MAX,
    BadFrame,
    Failure,
    Frame,
    FrameReader,
    Kind,
    decode_failure,
    encode_failure,
    encode_frame,
)
from pipeline.runtime.tensor_frames import decode_tensors, encode_tensors

FRAMES = st.builds(
    Frame, st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=200)
)
DTYPES = st.sampled_from(["bool", "int8", "int32", "int64", "uint8", "float16", "float32", "float64"])
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
TENSORS = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), ARRAYS, max_size=4)


def encoded(frame: Frame) -> bytes:
    return encode_frame(frame.kind, frame.term, frame.request_id, frame.payload)


@given(st.lists(FRAMES, max_size=6), st.data())
def test_frames_survive_any_split(frames: list[Frame], data: st.DataObject) -> None:
    stream = b"".join(map(encoded, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, read = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        read += reader.feed(stream[start:end])
    assert read == frames


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_a_bad_frame(data: bytes) -> None:
    reader = FrameReader(payload_bytes_max=100)
    try:
        frames = reader.feed(data)
    except BadFrame:
        return
    used = b"".join(map(encoded, frames))
    assert data.startswith(used)


def test_a_half_frame_is_waited_for() -> None:
    reader, frame = FrameReader(), encode_frame(Kind.INFER, 1, 2, b"abc")
    assert reader.feed(frame[:-1]) == []
    assert [one.payload for one in reader.feed(frame[-1:])] == [b"abc"]


@pytest.mark.parametrize("length", [PAYLOAD_BYTES_MAX + 1, 2**32 - 1])
def test_an_enormous_frame_is_refused_at_its_header(length: int) -> None:
    with pytest.raises(BadFrame, match="announced"):
        FrameReader().feed(HEADER.pack(length, Kind.INFER, 0, 0))


def test_an_unknown_kind_is_refused_even_when_it_arrives_byte_by_byte() -> None:
    reader = FrameReader()
    header = HEADER.pack(0, 99, 0, 0)
    for index in range(len(header) - 1):
        assert reader.feed(header[index : index + 1]) == []
    with pytest.raises(BadFrame, match="99"):
        reader.feed(header[-1:])


@settings(max_examples=60)
@given(TENSORS)
def test_tensors_survive_aligned_and_read_only(tensors: dict[str, np.ndarray]) -> None:
    read = decode_tensors(encode_tensors(tensors))
    assert list(read) == list(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()
        assert not read[name].flags.writeable
        assert read[name].flags.aligned


@settings(max_examples=80)
@given(TENSORS, st.data())
def test_corrupted_tensors_are_tensors_or_a_bad_frame(tensors: dict[str, np.ndarray], data: st.DataObject) -> None:
    payload = bytearray(encode_tensors(tensors))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    for attempt in (bytes(payload), cut):
        with contextlib.suppress(BadFrame):
            decode_tensors(attempt, 0, memoryview(bytes(64)))


@given(st.binary(max_size=200), st.booleans())
def test_any_payload_is_tensors_or_a_bad_frame(payload: bytes, has_arena: bool) -> None:
    with contextlib.suppress(BadFrame):
        decode_tensors(payload, 0, memoryview(bytes(64)) if has_arena else None)


def test_a_tensor_twice_bytes_left_over_and_dirty_padding_are_refused() -> None:
    payload = encode_tensors({"a": np.zeros(3, np.float32)})
    with pytest.raises(BadFrame):
        decode_tensors(payload + bytes(16))
    with pytest.raises(BadFrame, match="padding"):
        decode_tensors(payload[:-1] + b"\x01")
    twice = encode_tensors({"a": np.zeros(0, np.int8), "b": np.zeros(0, np.int8)}).replace(b"b", b"a")
    with pytest.raises(BadFrame, match="twice"):
        decode_tensors(twice)


def test_a_shape_that_no_machine_holds_is_refused_without_taking_memory() -> None:
    payload = bytearray(encode_tensors({"a": np.zeros((1, 1, 1, 1), np.float64)}))
    at = payload.index(b"\x01\x00\x00\x00" * 4)
    payload[at : at + 16] = b"\xff" * 16
    with pytest.raises(BadFrame, match="beyond"):
        decode_tensors(bytes(payload))


@pytest.mark.parametrize("array", [np.array(["text"]), np.array([object()]), np.zeros((1,) * 33, np.int8)])
def test_what_no_model_takes_is_not_encoded(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot be sent"):
        encode_tensors({"a": array})


@given(st.text(), st.text())
def test_failures_survive(error: str, sentence: str) -> None:
    assert decode_failure(encode_failure(Failure(error, sentence))) == Failure(error, sentence)


@given(st.binary(max_size=60) | st.sampled_from([b"[1,2]", b'["a"]', b"{}", b"[" * 100_000]))
def test_any_bytes_are_a_failure_or_a_bad_frame(payload: bytes) -> None:
    with contextlib.suppress(BadFrame):
        decode_failure(payload)
