"""A member's connections: its socket, the one link to the other member, and whoever else asks or offers.

Seat 1 dials, seat 0 is dialled. What is heard is carried out where it is understood; here bytes come and go.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Protocol

from pipeline.core.errors import DataError, Untrusted
from pipeline.online.place import SOCKET, Place
from pipeline.online.voice import Voice
from pipeline.online.wire import Frame, read_frame

_DIAL_S = 0.05
_UNSENT_BYTES_MAX = 8 << 20


@dataclass(eq=False)
class Peer:
    """Somebody on the other end of a connection."""

    writer: asyncio.StreamWriter

    def send(self, frame: bytes) -> None:
        """Send without waiting; who does not read is dropped."""
        if self.writer.is_closing():
            return
        self.writer.write(frame)
        if self.unsent_bytes > _UNSENT_BYTES_MAX:
            self.drop()

    @property
    def unsent_bytes(self) -> int:
        """Return how much waits to be sent."""
        return self.writer.transport.get_write_buffer_size()

    def drop(self) -> None:
        """Close the connection now, with what was not sent yet."""
        self.writer.transport.abort()


class Hearer(Protocol):
    """Who understands what is heard."""

    def heard(self, frame: Frame, peer: Peer) -> None:
        """Take a message; raises Untrusted or DataError for one that ends its connection."""

    def linked(self) -> None:
        """Learn that the other member can be talked to, from now on and not before."""

    def unlinked(self) -> None:
        """Learn that it cannot be talked to any more."""

    def left(self, peer: Peer) -> None:
        """Learn that somebody hung up."""


class Links:
    """Who is connected to a member; ``other`` is the other member, while there is a link to it."""

    def __init__(self, place: Place, hearer: Hearer, voice: Voice) -> None:
        self._place, self._hearer, self._voice = place, hearer, voice
        self.other: Peer | None = None

    async def open(self) -> asyncio.Server:
        """Listen on the member's socket, which is its owner's alone."""
        socket = self._place.folder / SOCKET
        socket.unlink(missing_ok=True)
        before = os.umask(0o077)
        server = await asyncio.start_unix_server(self._accept, socket)
        os.umask(before)
        return server

    async def dial(self) -> None:
        """Keep a link to the other member, until cancelled."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._place.other / SOCKET)
            except OSError:
                await asyncio.sleep(_DIAL_S)
                continue
            peer = Peer(writer)
            self.link(peer)
            await self._listen(reader, peer)
            await asyncio.sleep(_DIAL_S)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._listen(reader, Peer(writer))

    async def _listen(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        try:
            while (frame := await read_frame(reader)) is not None:
                self._hearer.heard(frame, peer)
        except (Untrusted, DataError) as error:
            self._voice.say("dropped a connection", reason=str(error))
        finally:
            peer.writer.close()
            self._hearer.left(peer)
            if peer is self.other:
                self.other = None
                self._hearer.unlinked()

    def link(self, peer: Peer) -> None:
        """Take somebody for the other member, instead of whoever was it before."""
        if self.other is not None:
            self.other.drop()
            self._hearer.unlinked()
        self.other = peer
        self._hearer.linked()

    def tell(self, frame: bytes) -> None:
        """Send to the other member, if there is a link to it."""
        if self.other is not None:
            self.other.send(frame)

    @property
    def unsent_bytes(self) -> int:
        """Return how much waits to be sent to the other member."""
        return 0 if self.other is None else self.other.unsent_bytes

    def part(self) -> None:
        """Close the link."""
        if self.other is not None:
            self.other.drop()
