"""A wall clock that a drill sets back, for the processes of one server alone; the machine's own is not touched.

What asks ``pipeline.core.clock`` sees it: the dates of channels, at each start of a worker, swap and check of the disk.
What asks the system itself does not: stamps of log lines, TLS, libraries, file times.
"""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from unittest import mock

from pipeline.core import clock
from pipeline.core.files import write_atomic

_FILE = "clock"


def set_back(orders: Path, ms: float) -> None:
    """Set the clock of every process that reads this folder back by ``ms``; 0: let it be right again."""
    write_atomic(orders / _FILE, f"{ms}".encode())


@contextlib.contextmanager
def clock_of(orders: Path) -> Iterator[None]:
    """Let this process, and those that it forks, see the clock that a folder of orders tells."""

    class Told(datetime):
        """The type that ``pipeline.core.clock`` asks for the time."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            """Return the time, set back as told."""
            return datetime.now(tz) - timedelta(milliseconds=_told_ms(orders))

    with mock.patch.object(clock, "datetime", Told):
        yield


def _told_ms(orders: Path) -> float:
    try:
        return float((orders / _FILE).read_text())
    except FileNotFoundError:
        return 0.0
