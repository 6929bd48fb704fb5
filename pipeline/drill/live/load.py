"""An open-loop load generator, in a process of its own: ``python -m pipeline.drill.live.load PLAN.json RESULT.json``.

Every request has its time before the first is sent, whatever answers come (open loop), and its latency counts from that
time, not from when it could be sent (no coordinated omission). A request that finds every connection busy opens one
more, so a stalled answer holds nobody up. Bodies are encoded beforehand and answers are kept as they come: to judge
them is work for later. The process says ``ready``, waits for a line, and says at what ``time.monotonic()`` it began.
"""

import asyncio
import gc
import os
import selectors
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from pipeline.core.canonical import readable_json
from pipeline.core.errors import InternalError
from pipeline.core.files import read_json, write_atomic
from pipeline.core.schema import plain, read
from pipeline.drill.live.plan import Exchange, Plan, Record, encoded, schedule

_HEADERS_END = b"\r\n\r\n"
_LEAD_S = 0.02  # from "began" to the first request


class ResponseParser:
    """Reads HTTP/1.1 responses with a Content-Length out of a stream of bytes, one at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> tuple[int, dict[str, str], bytes] | None:
        """Take bytes; return (status, headers, body) once a response is whole. Raises ValueError for other bytes."""
        self._buffer += data
        end = self._buffer.find(_HEADERS_END)
        if end < 0:
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        start = end + len(_HEADERS_END)
        length = int(headers["content-length"]) if "content-length" in headers else 0
        if len(self._buffer) < start + length:
            return None
        body = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return int(first.split(" ", 2)[1]), headers, body


class Connection(asyncio.Protocol):
    """One keep-alive connection; at most one exchange at a time."""

    def __init__(self, generator: "Generator") -> None:
        self._generator = generator
        self._transport: asyncio.Transport | None = None
        self._parser = ResponseParser()
        self._exchange: Exchange | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self._transport = cast(asyncio.Transport, transport)

    def send(self, exchange: Exchange, request: bytes, deadline_at: float) -> None:
        """Send a request; its exchange is complete when it leaves this connection."""
        if self._transport is None:
            raise InternalError("A connection was used before it was open; this is a bug of the load generator.")
        self._exchange = exchange
        self._timer = self._generator.loop.call_at(deadline_at, self._give_up)
        exchange.sent_ms = self._generator.now_ms()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Complete the exchange once its response is whole."""
        try:
            response = self._parser.feed(data)
        except (ValueError, KeyError, IndexError):
            self._end("the response is not HTTP")
            return
        if response is None or self._exchange is None:
            return
        exchange, now_ms = self._exchange, self._generator.now_ms()
        if now_ms > self._generator.deadline_ms(exchange):  # bytes are read before timers that are due as well
            self._give_up()
            return
        exchange.done_ms = now_ms
        exchange.status, exchange.headers, body = response
        exchange.body = body.decode("utf-8", "replace")
        self._settle()
        if exchange.headers.get("connection", "").lower() == "close":
            self._end("")
        else:
            self._generator.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the pool; what was under way is lost."""
        if self in self._generator.free:
            self._generator.free.remove(self)
        if self._exchange is not None:
            self._exchange.error = f"connection lost ({exc or 'closed'})"
            self._settle()

    def _give_up(self) -> None:
        self._end("no answer by the deadline")

    def _end(self, error: str) -> None:
        if self._exchange is not None:
            self._exchange.error = error
            self._settle()
        if self._transport is not None:
            self._transport.abort()

    def _settle(self) -> None:
        self._exchange = None
        if self._timer is not None:
            self._timer.cancel()
        self._generator.settled()

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.abort()


class Generator:
    """Sends what is planned, when it is planned."""

    def __init__(self, plan: Plan, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.free: list[Connection] = []
        self._plan = plan
        self._due = schedule(plan)
        self._requests = encoded(plan)
        self._began_s = 0.0
        self._open = 0
        self._complete = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.exchanges = [Exchange(question, 1000 * at_s) for at_s, question in self._due]

    def now_ms(self) -> float:
        """Return the ms since the start."""
        return 1000 * (time.monotonic() - self._began_s)

    def deadline_ms(self, exchange: Exchange) -> float:
        """Return until when an exchange may be answered, in ms since the start."""
        return exchange.scheduled_ms + self._plan.deadline_ms

    async def connect(self) -> None:
        """Open the connections before the clock runs."""
        for _ in range(self._plan.connections):
            self.free.append(await self._connected())

    async def run(self, began_s: float) -> None:
        """Send everything; ends when every exchange is settled."""
        self._began_s = began_s
        self._open = len(self.exchanges)
        for exchange in self.exchanges:
            self.loop.call_at(began_s + exchange.scheduled_ms / 1000, self._send, exchange)
        await self._complete.wait()
        for connection in self.free[:]:
            connection.close()

    def settled(self) -> None:
        """Count an exchange that ended."""
        self._open -= 1
        if self._open == 0:
            self._complete.set()

    def _send(self, exchange: Exchange) -> None:
        if self.free:
            self._send_on(self.free.pop(), exchange)
        else:
            task = self.loop.create_task(self._send_on_new(exchange))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _send_on(self, connection: Connection, exchange: Exchange) -> None:
        deadline_at = self._began_s + self.deadline_ms(exchange) / 1000
        connection.send(exchange, self._requests[exchange.question], deadline_at)

    async def _send_on_new(self, exchange: Exchange) -> None:
        left_s = (self.deadline_ms(exchange) - self.now_ms()) / 1000
        try:
            connection = await asyncio.wait_for(self._connected(), left_s)
        except (OSError, TimeoutError) as error:
            exchange.error = f"no connection ({type(error).__name__})"
            self.settled()
        else:
            self._send_on(connection, exchange)

    async def _connected(self) -> Connection:
        place = self._plan.host, self._plan.port
        _, connection = await self.loop.create_connection(lambda: Connection(self), *place)
        return connection


async def generate(plan: Plan) -> Record:
    """Connect, wait for the word, send."""
    loop = asyncio.get_running_loop()
    generator = Generator(plan, loop)
    await generator.connect()
    print("ready", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    began_s = time.monotonic() + _LEAD_S
    print(f"began {began_s!r}", flush=True)
    loop.add_reader(sys.stdin.fileno(), os._exit, 1)  # nothing more is said: it ends when the drill is killed
    gc.disable()  # a collection would be measured as the server's latency
    await generator.run(began_s)
    gc.enable()
    return Record(began_s, tuple(generator.exchanges))


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers keep to microseconds; epoll's round up to whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(arguments: Sequence[str]) -> None:
    """Run one plan."""
    plan = read(Plan, read_json(Path(arguments[0]), InternalError))
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        record = runner.run(generate(plan))
    write_atomic(Path(arguments[1]), readable_json(plain(record)))


if __name__ == "__main__":
    main(sys.argv[1:])
