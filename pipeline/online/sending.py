"""A sender of updates: finds the leader, sends again what was not acknowledged, and disbelieves deposed leaders."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError, Malformed, Unreachable
from pipeline.core.tensors import Tensors, decode_npz, encode_npz
from pipeline.online.place import SOCKET
from pipeline.online.wire import (
    AnswerHead,
    AskHead,
    DoneHead,
    Frame,
    Kind,
    OfferHead,
    RefusedHead,
    StatusHead,
    pack,
    read_frame,
)

_SILENCE_S = 0.4
_PAUSE_S = 0.03
_ANSWER_S = 3.0


@dataclass(frozen=True)
class Acknowledged:
    """An update that a leader acknowledged: its place in the log, by whom, and when (monotonic seconds)."""

    id: str
    seq: int
    epoch: int
    at: float


class Sender:
    """Sends updates to whichever of the two members leads; each counts once, however often it is sent."""

    def __init__(self, folders: Sequence[Path], told: Callable[[Acknowledged], None]) -> None:
        self._folders = folders
        self._told = told
        self._pending: dict[str, bytes] = {}
        self._epoch = 0
        self._at = 0
        self._writer: asyncio.StreamWriter | None = None
        self.idle = asyncio.Event()
        self.idle.set()

    def offer(self, identity: str, label: float, row: Tensors) -> None:
        """Send an update of one row, and again until it is acknowledged."""
        frame = pack(Kind.OFFER, OfferHead(identity, label), encode_npz(row))
        self._pending[identity] = frame
        self.idle.clear()
        if self._writer is not None:
            self._writer.write(frame)

    @property
    def pending(self) -> int:
        """Return how many updates are not acknowledged yet."""
        return len(self._pending)

    async def run(self) -> None:
        """Keep a connection to the leader until cancelled; raises DataError for an update that no member takes."""
        while True:
            with suppress(OSError):
                await self._session(self._folders[self._at])
            self._writer = None
            self._at = (self._at + 1) % len(self._folders)
            await asyncio.sleep(_PAUSE_S)

    async def _session(self, folder: Path) -> None:
        reader, writer = await asyncio.open_unix_connection(folder / SOCKET)
        try:
            for frame in self._pending.values():
                writer.write(frame)
            self._writer = writer
            while (frame_read := await self._next(reader)) is not None and self._hear(frame_read):
                pass
        finally:
            writer.close()

    async def _next(self, reader: asyncio.StreamReader) -> Frame | None:
        """Return the next frame; None when the member is gone, or silent while updates wait."""
        while True:
            task = asyncio.ensure_future(read_frame(reader))
            while True:
                done, _ = await asyncio.wait({task}, timeout=_SILENCE_S)
                if done:
                    return task.result()
                if self._pending:
                    task.cancel()
                    return None

    def _hear(self, frame: Frame) -> bool:
        match frame.head:
            case DoneHead(identity, seq, epoch):
                if epoch < self._epoch:
                    return False
                self._epoch = epoch
                if self._pending.pop(identity, None) is not None:
                    self._told(Acknowledged(identity, seq, epoch, time.monotonic()))
                if not self._pending:
                    self.idle.set()
                return True
            case RefusedHead(_, reason, again):
                if not again:
                    raise DataError(f"An update was refused: {reason}.")
                return False
            case _:
                raise Malformed("A member answered what was not asked.")


async def _exchange(folder: Path, frame: bytes) -> Frame:
    try:
        reader, writer = await asyncio.open_unix_connection(folder / SOCKET)
        try:
            writer.write(frame)
            heard = await asyncio.wait_for(read_frame(reader), _ANSWER_S)
        finally:
            writer.close()
    except (OSError, TimeoutError) as error:
        raise Unreachable(f"The member in {folder} does not answer; start it, or ask the other one.") from error
    if heard is None:
        raise Unreachable(f"The member in {folder} hung up; look at its log, or ask the other one.")
    return heard


async def status(folder: Path) -> StatusHead:
    """Return where a member stands; raises Unreachable."""
    head = (await _exchange(folder, pack(Kind.STATUS, StatusHead()))).head
    if not isinstance(head, StatusHead):
        raise Malformed("A member answered what was not asked.")
    return head


async def ask(folder: Path, rows: Tensors) -> tuple[AnswerHead, Mapping[str, object]]:
    """Return a member's answer to rows, from its checkpoint; raises Unreachable, also while it has none."""
    frame = await _exchange(folder, pack(Kind.ASK, AskHead(), encode_npz(rows)))
    if isinstance(frame.head, RefusedHead):
        raise Unreachable(f"The member in {folder} does not answer rows now: {frame.head.reason}.")
    if not isinstance(frame.head, AnswerHead):
        raise Malformed("A member answered what was not asked.")
    return frame.head, decode_npz(frame.body, "the answer", DataError)
