"""Shared memory of a worker for tensors too large for a socket: the server owns the slots, the worker borrows them."""

import contextlib
import fcntl
import mmap
import os

ARENA_BYTES = 1 << 26  # pages that nobody touches cost nothing
_SLOT_ALIGNMENT = 4096
# A worker that cut the file off would end the server at its next look into the mapping (SIGBUS).
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Arena:
    """A memory file, mapped by both sides.

    The server takes a slot a request, writes inputs there, and frees it when the answer has come; the worker may write
    outputs over the slot of the request that it answers. A slot is never lent twice at a time.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self._map = mmap.mmap(fd, size)
        self._view = memoryview(self._map)
        self._taken: list[tuple[int, int]] = []  # (start, end), sorted

    @classmethod
    def create(cls, size: int = ARENA_BYTES) -> "Arena":
        """Make an arena; ``fd`` is to be handed to the worker. Raises OSError where memory files are not allowed."""
        fd = os.memfd_create("hotspare-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            return cls(fd, size)
        except OSError:  # the mapping takes a descriptor too
            os.close(fd)
            raise

    @classmethod
    def open(cls, fd: int) -> "Arena":
        """Map an arena that the server made."""
        return cls(fd, os.fstat(fd).st_size)

    def take(self, size: int) -> int | None:
        """Lend ``size`` bytes and return where they start, or None when there is no room now."""
        size += -size % _SLOT_ALIGNMENT
        start = 0
        for index, (begin, end) in enumerate(self._taken):
            if begin - start >= size:
                self._taken.insert(index, (start, start + size))
                return start
            start = end
        if self.size - start < size:
            return None
        self._taken.append((start, start + size))
        return start

    def free(self, start: int) -> None:
        """Take a slot back; raises ValueError when it is not lent."""
        for index, (begin, _) in enumerate(self._taken):
            if begin == start:
                del self._taken[index]
                return
        raise ValueError(f"no slot starts at {start}")

    @property
    def lent(self) -> int:
        """Return how many slots are lent."""
        return len(self._taken)

    def bytes_at(self, start: int, end: int) -> memoryview:
        """Return a writable view of bytes ``start`` to ``end``."""
        return self._view[start:end]

    def slot_end(self, start: int) -> int:
        """Return where the slot that begins at ``start`` ends; raises ValueError when it is not lent."""
        for begin, end in self._taken:
            if begin == start:
                return end
        raise ValueError(f"no slot starts at {start}")

    def close(self) -> None:
        """Close the file and the mapping, or leave the mapping to the last array that looks into it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            with contextlib.suppress(BufferError):
                self._view.release()
                self._map.close()
