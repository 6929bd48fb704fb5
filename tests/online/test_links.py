"""A member's connections, alone: what goes wrong while a message is carried out is not taken for a broken link."""

import asyncio
import tempfile
from pathlib import Path

import pytest

from pipeline.online.links import Links, Peer
from pipeline.online.place import SOCKET, Place
from pipeline.online.voice import Voice
from pipeline.online.wire import Frame, Kind, StatusHead, pack


class Failing:
    """Understands messages, and fails on the way."""

    def heard(self, _: Frame, __: Peer) -> None:
        raise BrokenPipeError("the log's reader is gone")

    def linked(self) -> None:
        pass

    def unlinked(self) -> None:
        pass

    def left(self, peer: Peer) -> None:
        pass


def test_a_member_that_fails_halfway_through_a_message_does_not_go_on() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(pack(Kind.STATUS, StatusHead()))
        await writer.drain()

    async def play(folder: Path) -> None:
        links = Links(Place(1, folder / "mine", folder), Failing(), Voice("tiny", 1))
        async with await asyncio.start_unix_server(speak, folder / SOCKET):
            await asyncio.wait_for(links.dial(), 5)

    with tempfile.TemporaryDirectory(prefix="links-") as name, pytest.raises(BrokenPipeError):
        asyncio.run(play(Path(name)))
