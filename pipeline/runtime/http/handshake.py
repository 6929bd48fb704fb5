"""TLS before HTTP: a client that has not finished its handshake has a place like any other, and little time."""

import asyncio
import contextlib
import os
import socket
from typing import Any

from pipeline.runtime.http.certificate import Certificate
from pipeline.runtime.http.connection import Connection
from pipeline.runtime.http.settings import Limits


class Handshake(asyncio.Protocol):
    """One client from its arrival to the end of its handshake; then its connection takes over.

    An event loop that listens by TLS itself tells of a client only after its handshake: whoever opens connections and
    says nothing would take every descriptor, and no worker could be started any more.
    """

    def __init__(self, certificate: Certificate, limits: Limits, **settings: Any) -> None:
        self._certificate = certificate
        self._limits = limits
        self._settings = settings
        self._places: set[Any] = settings["server_state"].connections
        self._tasks: set[asyncio.Task[None]] = settings["server_state"].tasks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the handshake; without a free place there is none, since only after it anything could be said."""
        if len(self._places) < self._limits.connections_max:
            # The loop has begun to read in clear; on another descriptor it begins anew.
            sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
            self._places.add(self)
            self._task = asyncio.ensure_future(self._shake_hands(sock))
            self._tasks.add(self._task)
            self._task.add_done_callback(self._tasks.discard)
        transport.abort()  # type: ignore[attr-defined]

    def shutdown(self) -> None:
        """End with the server."""
        self._task.cancel()

    async def _shake_hands(self, sock: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # SSLError is one; what a client does wrong is no event here
                await asyncio.get_running_loop().connect_accepted_socket(
                    self._made, sock, ssl=self._certificate.context, ssl_handshake_timeout=self._limits.head_s_max
                )
        finally:
            self._places.discard(self)

    def _made(self) -> Connection:
        return Connection(self._limits, self, **self._settings)
