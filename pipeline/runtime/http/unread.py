"""Answers that wait for their clients: how many bytes all together, and who is given up when they are too many."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

PIECE_BYTES = 64 << 10


class Client(Protocol):
    """What a client is hung up on with: a transport."""

    def abort(self) -> None:
        """Close at once; what it has not read is dropped."""
        ...


@dataclass(eq=False)
class _Waiting:
    size_bytes: int
    client: Client


class Unread:
    """The answers that are being sent, longest first; of them one client alone may take more than ``bytes_max``."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.closed = 0
        self._bytes_max = bytes_max
        self._waiting: dict[_Waiting, None] = {}

    @contextmanager
    def sending(self, size_bytes: int, client: Client) -> Iterator[None]:
        """Count an answer while it is sent; where all are too much, who has been at it for the longest is given up."""
        one = _Waiting(size_bytes, client)
        self._waiting[one] = None
        self.bytes += size_bytes
        while self.bytes > self._bytes_max and len(self._waiting) > 1:
            slowest = next(iter(self._waiting))
            self._forget(slowest)
            slowest.client.abort()
            self.closed += 1
        try:
            yield
        finally:
            self._forget(one)

    def _forget(self, one: _Waiting) -> None:
        if one in self._waiting:
            del self._waiting[one]
            self.bytes -= one.size_bytes


def in_messages(body: bytes, scheme: str) -> Iterator[dict[str, Any]]:
    """Return the messages that send a body; before each, and so before the empty last one, a slow client is waited for.

    What TLS has encrypted and not sent nobody can count, so it is given piece by piece.
    """
    piece_bytes = PIECE_BYTES if scheme == "https" else len(body) or 1
    for at in range(0, len(body), piece_bytes):
        yield {"type": "http.response.body", "body": body[at : at + piece_bytes], "more_body": True}
    yield {"type": "http.response.body", "body": b"", "more_body": False}
