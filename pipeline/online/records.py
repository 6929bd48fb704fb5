"""Records of the update log as bytes, chained by digest: what a member writes, ships, and reads strictly.

A record is (length, epoch, seq, digest of the record before), a check of these numbers, the payload, and the record's
digest. One that ends early is a torn tail; anything else that is not as it was written is refused: the check of the
numbers keeps a flipped length from passing for a torn tail.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.errors import Malformed, Tampered

PAYLOAD_BYTES_MAX = 1 << 16
MAGIC = b"hotspare updates 2\n"
CHECK_BYTES = 8
DIGEST_BYTES = 32
_NUMBERS = struct.Struct(">IQQ32s")
_HEAD_BYTES = _NUMBERS.size + CHECK_BYTES


@dataclass(frozen=True)
class Record:
    """One update: its place, who ordered it (the epoch), and what it is."""

    epoch: int
    seq: int
    payload: bytes


@dataclass(frozen=True)
class Tip:
    """The last record of a log, or of a part of it: where the next one goes on."""

    epoch: int
    seq: int
    digest: bytes


@dataclass(frozen=True)
class Checked:
    """Records as another member encoded them, read and found whole."""

    data: bytes
    records: tuple[Record, ...]
    tips: tuple[Tip, ...]


def genesis(base_id: str) -> Tip:
    """Return what the first record of a base bundle's log goes on from."""
    return Tip(0, 0, hashlib.sha256(MAGIC + bytes.fromhex(base_id)).digest())


def encode(record: Record, before: Tip) -> tuple[bytes, Tip]:
    """Return a record's bytes after ``before``, and the tip that it makes; raises Malformed when it is too long."""
    if len(record.payload) > PAYLOAD_BYTES_MAX:
        raise Malformed(f"An update has {len(record.payload)} bytes, more than {PAYLOAD_BYTES_MAX}; send smaller ones.")
    numbers = _NUMBERS.pack(len(record.payload), record.epoch, record.seq, before.digest)
    body = numbers + check_of(numbers) + record.payload
    digest = hashlib.sha256(body).digest()
    return body + digest, Tip(record.epoch, record.seq, digest)


def decode(data: bytes, start: int, before: Tip, place: str) -> tuple[Record, Tip, int] | None:
    """Return the record at ``start``, its tip and where the next one starts; None when the bytes end before it does.

    Raises Tampered for bytes that are not as they were written, Malformed for a record that does not go on from
    ``before``.
    """
    head = data[start : start + _HEAD_BYTES]
    if len(head) < _HEAD_BYTES:
        return None
    length, epoch, seq, previous = _NUMBERS.unpack_from(head)
    if check_of(head[: _NUMBERS.size]) != head[_NUMBERS.size :]:
        raise Tampered(f"{place}: the record after {before.seq} is not as it was written; take the other member's log.")
    if length > PAYLOAD_BYTES_MAX or seq != before.seq + 1 or epoch < max(1, before.epoch) or previous != before.digest:
        raise Malformed(f"{place}: the record after {before.seq} does not go on from it; take the other member's log.")
    end = start + _HEAD_BYTES + length
    if len(data) < end + DIGEST_BYTES:
        return None
    digest = hashlib.sha256(data[start:end]).digest()
    if digest != data[end : end + DIGEST_BYTES]:
        raise Tampered(f"{place}: record {seq} is not as it was written; take the other member's log.")
    return Record(epoch, seq, data[start + _HEAD_BYTES : end]), Tip(epoch, seq, digest), end + DIGEST_BYTES


def decode_all(data: bytes, before: Tip, place: str) -> tuple[list[Record], list[Tip], int]:
    """Return the whole records of ``data``, their tips, and how many bytes they take: fewer when the tail is torn."""
    records: list[Record] = []
    tips: list[Tip] = []
    end = 0
    while found := decode(data, end, before, place):
        record, before, end = found
        records.append(record)
        tips.append(before)
    return records, tips, end


def common_seq(mine: Mapping[int, int], theirs: Mapping[int, int]) -> int:
    """Return the last record that two logs share, from the last record of each epoch in either.

    Records of one epoch come from one leader, which only appends: of the highest epoch that is in both logs, the
    shorter one's records are in the longer one too, and so is all before them. Of dropped records only the last one's
    epoch is known: what two logs share below the start of one may come out less than it is, never more.
    """
    shared = mine.keys() & theirs.keys()
    return min(mine[max(shared)], theirs[max(shared)]) if shared else 0


def check_of(numbers: bytes) -> bytes:
    """Return what tells numbers that were changed."""
    return hashlib.sha256(numbers).digest()[:CHECK_BYTES]


def encoded_bytes(record: Record) -> int:
    """Return how long a record is on disk."""
    return _HEAD_BYTES + len(record.payload) + DIGEST_BYTES
