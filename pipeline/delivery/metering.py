"""Counting what a depot sends."""

import threading
from dataclasses import dataclass, field

from pipeline.delivery.depot import Depot, is_chunk_path


@dataclass
class MeteredDepot:
    """A depot that counts the bytes and chunks that were read, by however many threads."""

    depot: Depot
    bytes_read: int = 0
    chunks_read: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """Where it is."""
        return self.depot.address

    @property
    def lanes(self) -> int:
        """How many reads at once are worth their while."""
        return self.depot.lanes

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes, or None."""
        data = self.depot.read(path, bytes_max)
        with self._lock:
            self.bytes_read += len(data or b"")
            self.chunks_read += int(data is not None and is_chunk_path(path))
        return data
