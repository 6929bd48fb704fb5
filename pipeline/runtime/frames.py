"""Frames between a server and its workers: a fixed header, then a payload; read strictly, whatever the peer sends.

Header: payload bytes (u32), kind (u8), term (u32), request id (u64), little endian. JSON payloads are small and flat.
"""

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

HEADER = struct.Struct("<IBIQ")
PAYLOAD_BYTES_MAX = 1 << 28  # far above what a front lets in; a peer that announces more is talking nonsense


class BadFrame(ValueError):
    """The peer sent what is no frame; there is no way to find the next one, so the connection is over."""


class Kind(IntEnum):
    """What a frame says. Worker to server: HELLO to FAILED, ANSWER, ERROR, SCRUBBED; the others go to the worker."""

    HELLO = 1  # the process is up
    STAGED = 2  # the bundle is verified, its model is not loaded
    READY = 3  # golden answers are right; payload: ReadyFacts
    FAILED = 4  # could not get ready; payload: Failure; the process ends
    INFER = 5  # payload: tensors
    ANSWER = 6  # payload: milliseconds in the engine (f64, padded to 16 bytes), tensors
    ERROR = 7  # payload: Failure
    LOAD = 8  # a staged worker is to get ready
    TERM = 9  # the term in the header holds now
    SCRUB = 10  # hash the loaded bytes again
    SCRUBBED = 11  # payload: Failure with an empty sentence when the bytes are as verified


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    kind: Kind
    term: int
    request_id: int
    payload: bytes


@dataclass(frozen=True)
class Failure:
    """Why something did not work: the error's name, and its sentence for people."""

    error: str
    sentence: str


def encode_frame(kind: Kind, term: int = 0, request_id: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame's bytes; raises ValueError for a payload that no reader takes."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ValueError(f"{len(payload)} bytes are too many for one frame; {PAYLOAD_BYTES_MAX} are the most")
    return HEADER.pack(len(payload), kind, term, request_id) + payload


class FrameReader:
    """Collects bytes as they come and gives out whole frames."""

    def __init__(self, payload_bytes_max: int = PAYLOAD_BYTES_MAX) -> None:
        self._held = bytearray()
        self._max = payload_bytes_max

    def feed(self, data: bytes) -> list[Frame]:
        """Take what arrived and return the frames that are complete; raises BadFrame for what can be none."""
        if not self._held:
            frames, used = self._take(data)
            self._held += data[used:]
            return frames
        self._held += data
        if len(self._held) < self._wanted():
            return []
        frames, used = self._take(bytes(self._held))
        del self._held[:used]
        return frames

    def _wanted(self) -> int:
        if len(self._held) < HEADER.size:
            return HEADER.size
        return HEADER.size + self._checked(self._held, 0)[0]

    def _checked(self, data: bytes | bytearray, at: int) -> tuple[int, Kind, int, int]:
        length, kind, term, request_id = HEADER.unpack_from(data, at)
        if length > self._max:
            raise BadFrame(f"a frame of {length} bytes is announced, where {self._max} are the most")
        try:
            return length, Kind(kind), term, request_id
        except ValueError as error:
            raise BadFrame(f"{kind} is no kind of frame") from error

    def _take(self, data: bytes) -> tuple[list[Frame], int]:
        frames, at = [], 0
        while len(data) - at >= HEADER.size:
            length, kind, term, request_id = self._checked(data, at)
            end = at + HEADER.size + length
            if end > len(data):
                break
            frames.append(Frame(kind, term, request_id, data[at + HEADER.size : end]))
            at = end
        return frames, at


def encode_failure(failure: Failure) -> bytes:
    """Return a failure as a payload."""
    return json.dumps([failure.error, failure.sentence]).encode()


def decode_failure(payload: bytes) -> Failure:
    """Read a failure; raises BadFrame."""
    value = decode_json(payload)
    if not (isinstance(value, list) and len(value) == 2 and all(isinstance(item, str) for item in value)):
        raise BadFrame("a failure is a name and a sentence")
    return Failure(*value)


def decode_json(payload: bytes) -> Any:
    """Read a JSON payload; raises BadFrame."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadFrame("a payload is not JSON") from error
