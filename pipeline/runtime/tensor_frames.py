"""Tensors as a frame's payload: small ones inline, large ones by their place in a shared arena.

Layout, little endian: bytes of the description (u32); count (u16); for each tensor its name (u16 bytes, UTF-8), dtype
code (u8), number of axes (u8), axes (u32 each) and place (u64: offset in the arena, or ``INLINE``); zeros up to a
multiple of 16, which end the description; then the inline tensors in order, C order, each padded with zeros to a
multiple of 16, so that arrays over the payload are aligned. Requests to one model are mostly described by the same
bytes: what these say is remembered.
"""

import functools
import math
import struct
from collections.abc import Mapping
from typing import Final

import numpy as np

from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.frames import BadFrame

INLINE_BYTES_MAX = 1 << 16
INLINE: Final = (1 << 64) - 1
ALIGNMENT = 16
_AXES_MAX = 32
_DTYPES = tuple(map(np.dtype, (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
)))  # fmt: skip
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}  # not by name: a swapped byte order has the same one
_HEAD = struct.Struct("<IH")
_REMEMBERED = 64  # descriptions
_REMEMBERED_BYTES_MAX = 512  # of one
_NAME = struct.Struct("<H")
_KIND = struct.Struct("<BB")
_PLACE = struct.Struct("<Q")
_PADDING = tuple(bytes(size) for size in range(ALIGNMENT))


def encode_tensors(tensors: Tensors, places: Mapping[str, int] | None = None) -> bytes:
    """Return tensors as a payload; those with a place in the arena are told by it, the caller copies them there.

    Raises ValueError for dtypes that no model takes or gives, names above 64 kB and more than 32 axes.
    """
    places = places or {}
    parts = [
        _description(tuple([(name, one.dtype, one.shape, places.get(name, INLINE)) for name, one in tensors.items()]))
    ]
    for name, array in tensors.items():
        if name not in places:
            data = array.tobytes()
            parts += [data, _PADDING[-len(data) % ALIGNMENT]]
    return b"".join(parts)


_Described = tuple[str, "np.dtype[np.generic]", tuple[int, ...], int]


@functools.lru_cache(_REMEMBERED)
def _description(tensors: tuple[_Described, ...]) -> bytes:
    described = b"".join([_one_description(*tensor) for tensor in tensors])
    padding = _PADDING[-(_HEAD.size + len(described)) % ALIGNMENT]
    return _HEAD.pack(_HEAD.size + len(described) + len(padding), len(tensors)) + described + padding


def _one_description(name: str, dtype: "np.dtype[np.generic]", shape: tuple[int, ...], place: int) -> bytes:
    code = _CODES.get(dtype)
    if code is None or len(shape) > _AXES_MAX:
        raise ValueError(f"{name!r} ({dtype}, {len(shape)} axes) cannot be sent to a worker")
    text = name.encode()
    axes = struct.pack(f"<{len(shape)}I", *shape)
    return b"".join([_NAME.pack(len(text)), text, _KIND.pack(code, len(shape)), axes, _PLACE.pack(place)])


def decode_tensors(payload: bytes, start: int = 0, arena: memoryview | None = None) -> dict[str, Array]:
    """Return the tensors of a payload from ``start`` (a multiple of 16) on, as read-only views of it.

    ``arena`` is what the peer may refer to; tensors there are views of it. Raises BadFrame for anything that
    :func:`encode_tensors` does not write.
    """
    described, at = _described(payload, start)
    tensors: dict[str, Array] = {}
    for name, dtype, shape, place in described:
        if place == INLINE:
            tensors[name] = _view(payload, dtype, shape, at)
            at = _skip_padding(payload, at + tensors[name].nbytes, start)
        else:
            tensors[name] = _view(_held(arena), dtype, shape, place)
    if at != len(payload) or len(tensors) != len(described):
        raise BadFrame("a payload has bytes left over, or a tensor twice")
    return tensors


def _described(payload: bytes, start: int) -> tuple[tuple[_Described, ...], int]:
    """Return what is described, and where the description ends."""
    try:
        size, _ = _HEAD.unpack_from(payload, start)
        end = start + size
        if size % ALIGNMENT or end > len(payload):
            raise BadFrame("the description of tensors has no such end")
        read = _read_description if size <= _REMEMBERED_BYTES_MAX else _read_description.__wrapped__
        return read(payload[start:end]), end
    except (struct.error, UnicodeDecodeError) as error:
        raise BadFrame("the description of tensors is cut off or garbled") from error


@functools.lru_cache(_REMEMBERED)
def _read_description(description: bytes) -> tuple[_Described, ...]:
    _, count = _HEAD.unpack_from(description)
    at, described = _HEAD.size, []
    for _ in range(count):
        one, at = _read_one(description, at)
        described.append(one)
    if _skip_padding(description, at, 0) != len(description):
        raise BadFrame("the description of tensors has another end than it says")
    return tuple(described)


def _read_one(payload: bytes, at: int) -> tuple[_Described, int]:
    (size,) = _NAME.unpack_from(payload, at)
    at += _NAME.size
    text = payload[at : at + size]
    at += size
    code, axes = _KIND.unpack_from(payload, at)
    at += _KIND.size
    if code >= len(_DTYPES) or axes > _AXES_MAX:
        raise BadFrame(f"there is no dtype {code}, or {axes} axes are too many")
    shape = struct.unpack_from(f"<{axes}I", payload, at)
    at += 4 * axes
    (place,) = _PLACE.unpack_from(payload, at)
    return (text.decode(), _DTYPES[code], shape, place), at + _PLACE.size


def _skip_padding(payload: bytes, at: int, start: int) -> int:
    end = at + (start - at) % ALIGNMENT
    if payload[at:end] != _PADDING[end - at]:
        raise BadFrame("padding is missing or not zero")
    return end


def _held(arena: memoryview | None) -> memoryview:
    if arena is None:
        raise BadFrame("a tensor is said to be in an arena, and none was given")
    return arena


def _view(data: bytes | memoryview, dtype: "np.dtype[np.generic]", shape: tuple[int, ...], at: int) -> Array:
    count = math.prod(shape)
    if at + count * dtype.itemsize > len(data) or at % dtype.itemsize:
        raise BadFrame("a tensor reaches beyond its payload or arena, or lies askew")
    array = np.frombuffer(data, dtype, count, at) if count else np.empty(0, dtype)
    try:
        array = array.reshape(shape)
    except ValueError as error:  # a tensor of nothing may still have axes that numpy does not count
        raise BadFrame("a tensor's axes are too long") from error
    array.flags.writeable = False
    return array
