"""The update log: records in one file, each on disk before anybody hears of it.

The file's head says which record the first one goes on from: none, or the last one of those that were dropped. A kill
leaves a record that ends early: that tail was never acknowledged and is cut off. Anything else that is not as it was
written is refused.

Dropping records writes the rest aside and renames it: a kill leaves the old log or the new one.
"""

import fcntl
import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.core.errors import FileAccess, Malformed, Tampered
from pipeline.core.files import disk_errors, fsync_dir, read_bytes, write_atomic
from pipeline.online.records import (
    CHECK_BYTES,
    DIGEST_BYTES,
    MAGIC,
    Checked,
    Record,
    Tip,
    check_of,
    decode_all,
    encode,
    encoded_bytes,
    genesis,
)

LOG_BYTES_MAX = 1 << 32
_ASIDE = ".aside-"
_BASE_BYTES = len(MAGIC) + DIGEST_BYTES
_START = struct.Struct(">QQ32s")
_FILE_HEAD_BYTES = _BASE_BYTES + _START.size + CHECK_BYTES


def read_log(path: Path, base_id: str) -> list[Record]:
    """Return the whole records of a log, whoever else has it open; raises Tampered, Malformed or FileAccess."""
    data = read_bytes(path)
    return decode_all(data[_FILE_HEAD_BYTES:], _read_head(data, base_id, path), str(path))[0]


def _file_head(base_id: str, start: Tip) -> bytes:
    head = MAGIC + bytes.fromhex(base_id) + _START.pack(start.epoch, start.seq, start.digest)
    return head + check_of(head)


def _read_head(data: bytes, base_id: str, path: Path) -> Tip:
    """Return what a log goes on from."""
    if not data.startswith(MAGIC + bytes.fromhex(base_id)):
        raise Malformed(f"{path} is no update log of this base bundle; name the log's own base, or another.")
    head = data[:_FILE_HEAD_BYTES]
    if len(head) < _FILE_HEAD_BYTES or check_of(head[:-CHECK_BYTES]) != head[-CHECK_BYTES:]:
        raise Tampered(f"{path}: its head is not as it was written; take the other member's log.")
    return Tip(*_START.unpack_from(head, _BASE_BYTES))


class UpdateLog:
    """One member's log of one base bundle's updates; a second process that opens it is refused.

    Raises Tampered, Malformed, FileAccess or OutOfSpace.
    """

    def __init__(self, path: Path, base_id: str) -> None:
        self.path = path
        self._base_id = base_id
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self._open()
        except BaseException:
            os.close(self._file)
            raise

    def _open(self) -> None:
        with disk_errors(self.path):
            self._lock()
            data = self._read()
        start = _read_head(data, self._base_id, self.path)
        records, tips, _ = decode_all(data[_FILE_HEAD_BYTES:], start, str(self.path))
        self._hold(start, records, tips)
        if self._ends[-1] < len(data):
            self._truncate()

    def _hold(self, start: Tip, records: list[Record], tips: list[Tip]) -> None:
        self._records = records
        self._tips = [start, *tips]
        self._ends = [_FILE_HEAD_BYTES]
        for record in records:
            self._ends.append(self._ends[-1] + encoded_bytes(record))

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            same = os.path.samestat(os.fstat(self._file), self.path.lstat())  # else it was replaced after it was opened
        except BlockingIOError:
            same = False
        if not same:
            raise FileAccess(f"{self.path} is open in another process; stop that one first.")

    def _read(self) -> bytes:
        size = os.fstat(self._file).st_size
        if size > LOG_BYTES_MAX:
            raise Malformed(f"{self.path} has {size} bytes, more than {LOG_BYTES_MAX}; begin a new one.")
        with os.fdopen(os.dup(self._file), "rb") as stream:
            stream.seek(0)
            data = stream.read()
        head = _file_head(self._base_id, genesis(self._base_id))
        if len(data) < len(head) and head.startswith(data):  # killed while it was made
            os.pwrite(self._file, head, 0)
            os.fsync(self._file)
            fsync_dir(self.path.parent)
            return head
        return data

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    @property
    def start(self) -> Tip:
        """Return what the first record goes on from."""
        return self._tips[0]

    @property
    def tip(self) -> Tip:
        """Return the last record's tip."""
        return self._tips[-1]

    def tip_at(self, seq: int) -> Tip | None:
        """Return the tip of a record, or of the start, or None when the log does not hold it."""
        place = seq - self.start.seq
        return self._tips[place] if 0 <= place < len(self._tips) else None

    def digest_at(self, seq: int) -> str:
        """Return the digest of a record that the log holds, or of the start, in hex; empty when it does not."""
        tip = self.tip_at(seq)
        return "" if tip is None else tip.digest.hex()

    def ends(self) -> dict[int, int]:
        """Return the last record of each epoch, the start's too."""
        return {tip.epoch: tip.seq for tip in self._tips if tip.epoch}

    def records(self, first: int, last: int | None = None) -> Sequence[Record]:
        """Return records from ``first`` to ``last`` (both counted), by default to the end."""
        before = self.start.seq
        return self._records[first - 1 - before : None if last is None else last - before]

    def encoded(self, first: int, last: int) -> bytes:
        """Return records from ``first`` to ``last`` as they are on disk."""
        start, end = self._ends[first - 1 - self.start.seq], self._ends[last - self.start.seq]
        return os.pread(self._file, end - start, start)

    def fitting(self, first: int, bytes_max: int) -> int:
        """Return up to which record ``bytes_max`` bytes from ``first`` on reach: at least ``first`` itself."""
        reached = self._ends[first - 1 - self.start.seq] + bytes_max
        last = self.start.seq + bisect_right(self._ends, reached) - 1
        return min(max(first, last), self.tip.seq)

    def append(self, epoch: int, payloads: Iterable[bytes]) -> None:
        """Write updates of an epoch; they are on disk when this returns."""
        before, parts, records, tips = self.tip, [], [], []
        for payload in payloads:
            record = Record(epoch, before.seq + 1, payload)
            data, before = encode(record, before)
            parts.append(data)
            records.append(record)
            tips.append(before)
        self._write(b"".join(parts), records, tips, [len(part) for part in parts])

    def check(self, data: bytes) -> Checked:
        """Read records that another member encoded; raises Tampered or Malformed unless they go on from this log."""
        records, tips, end = decode_all(data, self.tip, "what the leader sent")
        if end != len(data):
            raise Malformed("The leader sent a record that ends early; connect again.")
        return Checked(data, tuple(records), tuple(tips))

    def append_checked(self, checked: Checked) -> None:
        """Write records that :meth:`check` has read; they are on disk when this returns."""
        sizes = [encoded_bytes(record) for record in checked.records]
        self._write(checked.data, list(checked.records), list(checked.tips), sizes)

    def _write(self, data: bytes, records: list[Record], tips: list[Tip], sizes: list[int]) -> None:
        with disk_errors(self.path):
            _write_at(self._file, data, self._ends[-1])
            os.fdatasync(self._file)
        self._records += records
        self._tips += tips
        for size in sizes:
            self._ends.append(self._ends[-1] + size)

    def cut(self, seq: int) -> None:
        """Drop all records after ``seq``; what is dropped stays beside the log for people, under another name."""
        if seq >= self.tip.seq:
            return
        self._keep_aside(seq + 1)
        place = seq - self.start.seq
        del self._records[place:]
        del self._tips[place + 1 :]
        del self._ends[place + 1 :]
        self._truncate()

    def _keep_aside(self, first: int) -> None:
        dropped = self.path.with_name(f"{self.path.name}.cut-{self.tip.epoch}-{first}-{self.tip.seq}")
        write_atomic(dropped, self.encoded(first, self.tip.seq), mode=0o600)

    def shorten(self, seq: int) -> None:
        """Drop all records up to ``seq``: the log goes on from there."""
        place = seq - self.start.seq
        if place:
            self._replace(self._tips[place], self._records[place:], self._tips[place + 1 :])

    def begin(self, start: Tip) -> None:
        """Go on from another record, with none yet; what the log held stays beside it for people."""
        if self._records:
            self._keep_aside(self.start.seq + 1)
        self._replace(start, [], [])

    def _replace(self, start: Tip, records: list[Record], tips: list[Tip]) -> None:
        data = _file_head(self._base_id, start)
        if records:
            data += self.encoded(records[0].seq, records[-1].seq)
        aside = self.path.with_name(f"{_ASIDE}{self.path.name}")
        with disk_errors(self.path):
            aside.unlink(missing_ok=True)
            file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # it is this member's before it is the log
                _write_at(file, data, 0)
                os.fsync(file)
                aside.replace(self.path)
                fsync_dir(self.path.parent)
            except BaseException:
                os.close(file)
                raise
            os.close(self._file)
        self._file = file
        self._hold(start, records, tips)

    def _truncate(self) -> None:
        with disk_errors(self.path):
            os.ftruncate(self._file, self._ends[-1])
            os.fsync(self._file)


def _write_at(file: int, data: bytes, start: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], start + written)
