"""A TCP proxy in front of the server that is told to drop, delay or reset what goes through it, in both directions."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import InternalError

_READ_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: nothing is sent after the end, the other side gets a reset
_START_S = 5.0


@dataclass
class Toxics:
    """What is done to bytes now; delays add up."""

    drops: int = 0
    resets: int = 0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0


class Proxy:
    """Listens on a port of the loopback and passes everything on to another, in a thread of its own."""

    def __init__(self, to_port: int, seed: int = 0) -> None:
        self.port = 0
        self._to_port = to_port
        self._toxics = Toxics()
        self._draw = random.Random(seed)  # noqa: S311 - jitter, no secret
        self._loop = asyncio.new_event_loop()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="toxics", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._call(self._listen())

    def stop(self) -> None:
        """End every connection, and the thread."""
        if not self._thread.is_alive():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_S)
        self._loop.close()

    @contextlib.contextmanager
    def dropping(self) -> Iterator[None]:
        """Let bytes vanish: whoever waits for them waits until its own deadline."""
        with self._changed(lambda toxics, sign: setattr(toxics, "drops", toxics.drops + sign)):
            yield

    @contextlib.contextmanager
    def delaying(self, ms: float, jitter_ms: float = 0.0) -> Iterator[None]:
        """Let bytes come ``ms`` later, and up to ``jitter_ms`` more; their order stays."""

        def change(toxics: Toxics, sign: int) -> None:
            toxics.delay_ms += sign * ms
            toxics.jitter_ms += sign * jitter_ms

        with self._changed(change):
            yield

    @contextlib.contextmanager
    def resetting(self) -> Iterator[None]:
        """Reset every connection that is open, and each that comes while this lasts."""
        with self._changed(lambda toxics, sign: setattr(toxics, "resets", toxics.resets + sign)):
            self._call(self._reset_all())
            yield

    @contextlib.contextmanager
    def _changed(self, change: Callable[[Toxics, int], None]) -> Iterator[None]:
        async def apply(sign: int) -> None:
            change(self._toxics, sign)

        self._call(apply(1))
        try:
            yield
        finally:
            self._call(apply(-1))

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            done.result(_START_S)
        except TimeoutError as error:
            raise InternalError("The drill's proxy does not answer; the machine is overloaded.") from error

    # In the thread.

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        await self._reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reset_all(self) -> None:
        for pair in list(self._pairs):
            _reset(*pair)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._toxics.resets:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            _reset(writer)
            return
        pair = writer, far_writer
        self._pairs.add(pair)
        for one in pair:
            one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
        finally:
            self._pairs.discard(pair)
            for one in pair:
                one.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one direction on until its end; what is late waits in a queue, so that reading never does."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = asyncio.ensure_future(_written(waiting, writer))
        self._tasks.add(writing)
        writing.add_done_callback(self._tasks.discard)
        due_s = 0.0
        data = b"?"
        while data:
            try:
                data = await reader.read(_READ_BYTES)
            except OSError:
                data = b""
            if data and self._toxics.drops:
                continue
            due_s = max(due_s, self._loop.time() + self._delay_s())
            waiting.put_nowait((due_s, data))
        await asyncio.gather(writing, return_exceptions=True)

    def _delay_s(self) -> float:
        return (self._toxics.delay_ms + self._draw.random() * self._toxics.jitter_ms) / 1000


async def _written(waiting: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    """Write what is due, in order; an empty piece is the end."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while True:
            due_s, data = await waiting.get()
            if (wait_s := due_s - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if not data:
                break
            writer.write(data)
        writer.write_eof()  # the other direction may go on


def _reset(*writers: asyncio.StreamWriter) -> None:
    """End connections as a host does that knows nothing of them."""
    for writer in writers:
        taken = writer.get_extra_info("socket")
        with contextlib.suppress(OSError):
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()
