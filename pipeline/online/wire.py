"""What members and senders tell each other: frames of (length, kind, body) on a Unix socket, read strictly.

Bodies are canonical JSON, or a JSON head with bytes after it. Whoever may open the socket is trusted with the protocol,
not with the log: records are checked against the chain before they are stored.
"""

import asyncio
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, TypeVar

from pipeline.bundle.strict_json import fit, parse_canonical
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import Malformed
from pipeline.core.schema import Rule, plain
from pipeline.online.leading_nouns import Terms

T = TypeVar("T")

FRAME_BYTES_MAX = 1 << 20
SHIP_BYTES_MAX = 1 << 19
_FRAME = struct.Struct(">IB")
_HEAD = struct.Struct(">H")
_Number = Annotated[int, Rule(minimum=0, maximum=1 << 62)]
_Digest = Annotated[str, Rule(pattern="[0-9a-f]{64}")]
_Seconds = Annotated[float, Rule(minimum=0)]


class Kind(IntEnum):
    """What a frame is."""

    GREET = 1
    WELCOME = 2
    SHIP = 3
    CONFIRM = 4
    OFFER = 5
    DONE = 6
    REFUSED = 7
    ASK = 8
    ANSWER = 9
    STATUS = 10
    HELD = 11
    LEND = 12


@dataclass(frozen=True)
class GreetHead:
    """Where a member stands, and what it was told; ``ends`` is (epoch, last record) of each epoch in its log."""

    base: str
    seat: _Number
    terms: Terms
    window: _Number
    epoch: _Number
    leads: bool
    ends: tuple[tuple[_Number, _Number], ...]


@dataclass(frozen=True)
class WelcomeHead:
    """A leader takes a follower on, from record ``common``, whose digest in its own log is ``record``."""

    epoch: _Number
    common: _Number
    record: _Digest
    sent_at: _Seconds


@dataclass(frozen=True)
class LendHead:
    """A leader takes a follower on; the checkpoint that its log starts from follows."""

    epoch: _Number
    sent_at: _Seconds


@dataclass(frozen=True)
class ShipHead:
    """Records follow, the first of them ``first``."""

    epoch: _Number
    first: _Number
    sent_at: _Seconds


@dataclass(frozen=True)
class ConfirmHead:
    """A follower has all up to ``seq`` on disk."""

    epoch: _Number
    seq: _Number
    sent_at: _Seconds


@dataclass(frozen=True)
class HeldHead:
    """A member's checkpoint, verified and loaded: up to which record, that record's digest, and the state's."""

    seq: _Number
    record: _Digest
    state: _Digest


@dataclass(frozen=True)
class OfferHead:
    """An update; its row follows as npz."""

    id: Annotated[str, Rule(pattern="[0-9a-f]{32}")]
    label: Annotated[float, Rule(minimum=0, maximum=1)]


@dataclass(frozen=True)
class DoneHead:
    """An update is acknowledged; ``epoch`` is its leader's, so that a sender can disbelieve an old one."""

    id: str
    seq: _Number
    epoch: _Number


@dataclass(frozen=True)
class RefusedHead:
    """An update is not taken; ``again`` says that another member, or a later time, may take it."""

    id: str
    reason: str
    again: bool


@dataclass(frozen=True)
class AskHead:
    """Rows to answer follow as npz."""


@dataclass(frozen=True)
class AnswerHead:
    """Answers follow as npz; they come from the checkpoint of ``seq``."""

    bundle_id: str
    seq: _Number
    epoch: _Number
    leads: bool


@dataclass(frozen=True)
class StatusHead:
    """Where a member stands; without values it is the question."""

    stand: str | None = None
    epoch: _Number | None = None
    start: _Number | None = None
    last: _Number | None = None
    shared: _Number | None = None
    joined: bool | None = None
    checkpoint_seq: _Number | None = None
    checkpoint_id: str | None = None
    head_sha256: str | None = None


_HEADS: dict[Kind, type] = {
    Kind.GREET: GreetHead,
    Kind.WELCOME: WelcomeHead,
    Kind.SHIP: ShipHead,
    Kind.CONFIRM: ConfirmHead,
    Kind.OFFER: OfferHead,
    Kind.DONE: DoneHead,
    Kind.REFUSED: RefusedHead,
    Kind.ASK: AskHead,
    Kind.ANSWER: AnswerHead,
    Kind.STATUS: StatusHead,
    Kind.HELD: HeldHead,
    Kind.LEND: LendHead,
}


@dataclass(frozen=True)
class Frame:
    """One message: a head of its kind, and the bytes after it."""

    kind: Kind
    head: object
    body: bytes = b""


def pack(kind: Kind, head: object, body: bytes = b"") -> bytes:
    """Return a frame's bytes."""
    told = canonical_json(plain(head))
    content = _HEAD.pack(len(told)) if len(told) < 1 << 16 else b""
    if not content or len(told) + len(body) + _HEAD.size > FRAME_BYTES_MAX:
        raise Malformed(f"A {kind.name.lower()} message is too long to send.")
    content += told + body
    return _FRAME.pack(len(content), kind) + content


def unpack(kind: int, content: bytes) -> Frame:
    """Return a frame from what follows its length and kind; raises Malformed."""
    if kind not in list(map(int, Kind)) or len(content) < _HEAD.size:
        raise Malformed(f"A message of kind {kind} and {len(content)} bytes is none of ours.")
    known = Kind(kind)
    end = _HEAD.size + _HEAD.unpack_from(content)[0]
    what = f"A {known.name.lower()} message"
    head: object = fit(_HEADS[known], parse_canonical(content[_HEAD.size : end], what), what)
    return Frame(known, head, content[end:])


async def read_frame(reader: asyncio.StreamReader) -> Frame | None:
    """Return the next frame, or None when the other side is gone; raises Malformed."""
    try:
        length, kind = _FRAME.unpack(await reader.readexactly(_FRAME.size))
        if length > FRAME_BYTES_MAX:
            raise Malformed(f"A message of {length} bytes is longer than {FRAME_BYTES_MAX}.")
        return unpack(kind, await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
