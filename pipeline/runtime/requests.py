"""Payloads of INFER and ANSWER frames: tensors inline or in a slot of the arena, with what else belongs to a request.

INFER: where its slot begins and ends (u64 each, equal where there is none), tensors. ANSWER: milliseconds in the
engine (f64), 8 zero bytes, tensors. A tensor's place is counted from the beginning of the request's slot: neither
side can refer to another request's memory.
"""

import math
import struct

import numpy as np

from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.arena import Arena
from pipeline.runtime.frames import BadFrame
from pipeline.runtime.tensor_frames import ALIGNMENT, INLINE_BYTES_MAX, decode_tensors, encode_tensors

_SLOT = struct.Struct("<QQ")
_ENGINE = struct.Struct("<dQ")


def pack_request(inputs: Tensors, arena: Arena) -> tuple[bytes, int | None]:
    """Return a request's payload and the slot that was taken for its large tensors, to be freed after the answer.

    Where the arena is full everything goes inline. Raises ValueError for what cannot be encoded.
    """
    large = {name: array for name, array in inputs.items() if array.nbytes > INLINE_BYTES_MAX}
    start = arena.take(_bytes_of(large)) if large else None
    if start is None:
        return _SLOT.pack(0, 0) + encode_tensors(inputs), None
    end = arena.slot_end(start)
    try:
        places = _put(large, arena.bytes_at(start, end))
        return _SLOT.pack(start, end) + encode_tensors(inputs, places), start
    except ValueError:
        arena.free(start)
        raise


def unpack_request(payload: bytes, arena: Arena) -> tuple[dict[str, Array], memoryview]:
    """Return a request's inputs, views of payload and slot, and the slot for outputs; raises BadFrame."""
    try:
        start, end = _SLOT.unpack_from(payload)
    except struct.error as error:
        raise BadFrame("a request is cut off") from error
    if not 0 <= start <= end <= arena.size:
        raise BadFrame("a request's slot lies outside the arena")
    slot = arena.bytes_at(start, end)
    return decode_tensors(payload, _SLOT.size, slot), slot


def pack_answer(outputs: Tensors, engine_ms: float, slot: memoryview) -> bytes:
    """Return an answer's payload; large outputs overwrite the request's inputs, as far as they fit."""
    large = {name: array for name, array in outputs.items() if array.nbytes > INLINE_BYTES_MAX}
    if not large:
        return _ENGINE.pack(engine_ms, 0) + encode_tensors(outputs)
    lent = np.frombuffer(slot, np.uint8)
    if _bytes_of(large) > len(slot) or any(np.may_share_memory(array, lent) for array in large.values()):
        large = {}
    return _ENGINE.pack(engine_ms, 0) + encode_tensors(outputs, _put(large, slot))


def unpack_answer(payload: bytes, slot: memoryview) -> tuple[dict[str, Array], float]:
    """Return outputs, of which none looks into the slot any more, and the engine's milliseconds; raises BadFrame."""
    try:
        engine_ms, zero = _ENGINE.unpack_from(payload)
    except struct.error as error:
        raise BadFrame("an answer is cut off") from error
    if zero or not (math.isfinite(engine_ms) and engine_ms >= 0):
        raise BadFrame("an answer's time is no time")
    outputs = decode_tensors(payload, _ENGINE.size, slot)
    if len(slot):
        outputs = {name: array.copy() for name, array in outputs.items()}
    return outputs, engine_ms


def _bytes_of(tensors: Tensors) -> int:
    return sum(array.nbytes + -array.nbytes % ALIGNMENT for array in tensors.values())


def _put(tensors: Tensors, slot: memoryview) -> dict[str, int]:
    """Copy tensors into a slot one after the other; returns where each begins."""
    places, at = {}, 0
    for name, array in tensors.items():
        target = np.frombuffer(slot, array.dtype, array.size, at).reshape(array.shape)
        np.copyto(target, array)
        places[name] = at
        at += array.nbytes + -array.nbytes % ALIGNMENT
    return places
