"""What server and keeper say to each other: JSON messages, with descriptors, over a socket that keeps them apart."""

import json
import socket
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import InternalError
from pipeline.core.schema import SchemaProblems, plain, read
from pipeline.runtime.worker_spec import WorkerSpec

_MESSAGE_BYTES_MAX = 1 << 16
_DESCRIPTORS_MAX = 4


@dataclass(frozen=True)
class SpawnAsked:
    """Server: fork a worker; descriptors: its socket, its arena, the reading end of its lifeline."""

    ask: int
    spec: WorkerSpec


@dataclass(frozen=True)
class Leaving:
    """Server: the service ends by intent, with this exit code; start no other server."""

    code: int


@dataclass(frozen=True)
class Replaced:
    """Server: you did not answer, so there is another keeper now."""


@dataclass(frozen=True)
class WorkerForked:
    """Keeper: the worker is up; descriptor: its pidfd."""

    ask: int
    pid: int


@dataclass(frozen=True)
class ForkFailed:
    """Keeper: the machine has no process or memory left."""

    ask: int
    sentence: str


@dataclass(frozen=True)
class WorkerEnded:
    """Keeper: a worker ended, with this wait status."""

    pid: int
    status: int


Message = SpawnAsked | Leaving | Replaced | WorkerForked | ForkFailed | WorkerEnded
_KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (SpawnAsked, Leaving, Replaced, WorkerForked, ForkFailed, WorkerEnded)
}


class Line:
    """One end of the connection, either side's; ``socket`` is replaced when a server gets a new keeper."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    @staticmethod
    def pair() -> tuple[socket.socket, socket.socket]:
        """Return both ends of a new connection, neither blocks."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setblocking(False)
        return ends

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send one message; raises BlockingIOError when the peer does not read, OSError when it is gone."""
        data = json.dumps([type(message).__name__, plain(message)]).encode()
        socket.send_fds(self.socket, [data], descriptors)

    def receive(self) -> tuple[Message, list[int]] | None:
        """Return the next message and the descriptors that came with it, None when the peer is gone.

        Raises BlockingIOError when there is none yet.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(self.socket, _MESSAGE_BYTES_MAX, _DESCRIPTORS_MAX)
        except ConnectionError:
            return None
        return (_parse(data), descriptors) if data else None


def _parse(data: bytes) -> Message:
    try:
        kind, content = json.loads(data)
        message: Any = read(_KINDS[kind], content)
    except (ValueError, KeyError, SchemaProblems) as error:
        raise InternalError(
            f"The server and its keeper do not understand each other ({error}); report this."
        ) from error
    else:
        return message  # type: ignore[no-any-return]
