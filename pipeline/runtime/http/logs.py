"""JSON log lines: one a record, written by a thread so that a slow disk or a full pipe never holds a request up."""

import contextlib
import queue
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import BinaryIO

import orjson

from pipeline.core.printable import printable

_CLOSE_S = 1.0


class LogWriter:
    """Writes records to a binary stream, in order; when ``lines_max`` wait already, a record is dropped and counted.

    The stream has no buffer of its own: a thread that is stuck in one holds its lock, and nobody else could flush it.
    """

    def __init__(self, stream: BinaryIO, lines_max: int = 10_000) -> None:
        self._stream = stream
        self._waiting: queue.Queue[Mapping[str, object] | None] = queue.Queue(lines_max)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def put(self, record: Mapping[str, object]) -> None:
        """Queue a record; never waits."""
        try:
            self._waiting.put_nowait({"at": datetime.now(UTC), **record})
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, and end; whoever does not read it is not waited for long."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)

    def _write(self) -> None:
        while (record := self._waiting.get()) is not None:
            if dropped := self._dropped:
                self._dropped -= dropped
                record = {**record, "dropped_before": dropped}
            line = _line(record)
            with contextlib.suppress(OSError):  # whoever read the log went away; serving goes on
                while line:
                    line = line[self._stream.write(line) :]


def _line(record: Mapping[str, object]) -> bytes:
    options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
    try:
        return orjson.dumps(record, default=str, option=options)
    except orjson.JSONEncodeError:  # text that is no Unicode, such as a file's name: the log goes on
        return orjson.dumps({"at": record.get("at"), "event": printable(repr(record))}, default=str, option=options)
