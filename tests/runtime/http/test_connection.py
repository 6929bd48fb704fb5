"""The server on real sockets: garbage, floods and slow clients get a refusal and leave nothing behind."""

import asyncio
import contextlib
import gc
import json
import random
import socket
import time
from pathlib import Path

import pytest
from asking import GOOD, read_all
from fake_service import FakeService, free_socket
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pipeline.runtime.http.app import build_app
from pipeline.runtime.http.server import serve_app
from pipeline.runtime.http.settings import FrontSettings, Limits

BODY = json.dumps(GOOD).encode()
REQUEST = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


@contextlib.asynccontextmanager
async def serving(**limits):
    """Serve in this loop; yields the port and the service."""
    service, sock = FakeService(), free_socket()
    front, began = FrontSettings(limits=Limits(**limits), drain_s_max=5), asyncio.Event()

    async def drain():
        service.ending = True
        began.set()

    running = asyncio.create_task(serve_app(build_app(service, front), [sock], front, drain))
    try:
        yield sock.getsockname()[1], service
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        assert began.is_set()


async def say(port, data, end=True):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if end:
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return answer


def status_and_error(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50), 400),  # TLS to a plain port
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"\0" * 100, 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"GET http://localhost:x/ HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET /" + b"a" * 40_000, 431),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000, 431),
    ],
)
def test_what_is_not_http_is_refused_in_json(data, status):
    async def run():
        async with serving() as (port, _):
            return await say(port, data)

    assert status_and_error(asyncio.run(run()))[0] == status


@pytest.mark.parametrize("data", [b"", b"GET / HT", b"\r\n", b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: a"])
def test_a_request_that_never_arrives_is_ended(data):
    async def run():
        async with serving(head_s_max=0.3) as (port, _):
            return await say(port, data, end=False)

    assert status_and_error(asyncio.run(run()))[0] == 408 if data.strip() else asyncio.run(run()) in (b"",)


@pytest.mark.parametrize(
    ("path", "status"), [(b"/v2/models/tiny/infer", 408), (b"/v2/models/nope/infer", 404), (b"/v2/health/live", 405)]
)
def test_a_body_that_never_arrives_is_ended(path, status):
    async def run():
        async with serving(head_s_max=0.5, body_s_max=0.1) as (port, _):
            return await say(
                port, b"POST %s HTTP/1.1\r\nhost: localhost\r\ncontent-length: 50\r\n\r\n{" % path, end=False
            )

    assert status_and_error(asyncio.run(run()))[0] == status


def test_a_second_request_after_line_feeds_and_a_pipelined_one_are_answered():
    async def run():
        async with serving() as (port, _):
            return await say(port, REQUEST + b"\r\n" + REQUEST + REQUEST)

    assert asyncio.run(run()).count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize("request_text", [REQUEST, b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"])
def test_no_request_waits_for_the_collector(request_text):
    def left():
        return sum(isinstance(one, RequestResponseCycle) for one in gc.get_objects())

    async def run():
        async with serving() as (port, _):
            before = left()
            assert (await say(port, request_text * 8)).count(b"HTTP/1.1 200 OK") == 8
            return left() - before

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(run()) <= 1
    finally:
        gc.enable()


def test_a_connection_too_many_is_refused_and_a_freed_place_is_given():
    async def run():
        async with serving(connections_max=2) as (port, _):
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            refused = await say(port, b"")
            for _, writer in held:
                writer.close()
                await writer.wait_closed()
            while not (answer := await say(port, REQUEST)).startswith(b"HTTP/1.1 200"):
                pass
            return refused, answer

    refused, _ = asyncio.run(run())
    assert status_and_error(refused) == (503, "Too many connections; try again.")


def test_a_request_in_flight_at_the_end_is_answered():
    async def run():
        async with serving() as (port, service):
            reached, released, answer = asyncio.Event(), asyncio.Event(), service.infer

            async def infer(*args):
                reached.set()
                await released.wait()
                return await answer(*args)

            service.infer = infer
            asking = asyncio.create_task(say(port, REQUEST, end=False))
            await reached.wait()
            asyncio.get_running_loop().call_later(0.05, released.set)
        return await asking

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 200") and b"connection: close" in answer


def test_an_expectation_is_met_before_the_body_is_sent():
    async def run():
        async with serving() as (port, _):
            head = REQUEST.replace(b"host", b"expect: 100-continue\r\nhost", 1).removesuffix(BODY)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(head)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(BODY)
            writer.write_eof()
            return await reader.read()

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(("path", "status"), [(b"/v2/health/live", 405), (b"/admin/models/tiny/swap", 404)])
def test_after_an_expectation_that_was_refused_no_request_is_taken_for_the_body(path, status):
    async def run():
        async with serving() as (port, _):
            head = b"POST %s HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n" % path
            return await say(port, head, end=False)

    assert status_and_error(asyncio.run(run()))[0] == status


def mutated(chance):
    """Return a request that was cut, doubled, spliced or had bytes changed."""
    data = bytearray(REQUEST)
    for _ in range(chance.randrange(1, 6)):
        at, to = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
        piece = chance.choice(
            [b"", bytes(data[at:to]) * 2, chance.randbytes(chance.randrange(20)), b"\r\n", b"0", b"\xff"]
        )
        data[at:to] = piece
    return bytes(data[:100_000])


@pytest.mark.slow
def test_garbage_gets_no_5xx_and_leaves_nothing(served):
    fds = Path(f"/proc/{served.process.pid}/fd")
    assert served.say(REQUEST).startswith(b"HTTP/1.1 200")
    before, rss = len(list(fds.iterdir())), resident_kb(served)
    for seed in range(3000):
        chance = random.Random(seed)
        data = mutated(chance) if seed % 4 else chance.randbytes(chance.randrange(400))
        answer = served.say(data)
        assert answer == b"" or 200 <= int(answer.split()[1]) < 500, (seed, data, answer)
    assert served.say(REQUEST).startswith(b"HTTP/1.1 200") and served.process.poll() is None
    ended_s = time.monotonic()
    while len(list(fds.iterdir())) > before and time.monotonic() - ended_s < 60:
        pass
    assert len(list(fds.iterdir())) <= before
    assert resident_kb(served) - rss < 8_000


def resident_kb(served):
    lines = Path(f"/proc/{served.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


@pytest.mark.slow
def test_clients_that_vanish_leave_nothing(served):
    fds = Path(f"/proc/{served.process.pid}/fd")
    before = len(list(fds.iterdir()))
    for seed in range(300):
        sock = served.connect()
        sock.sendall(REQUEST[: random.Random(seed).randrange(len(REQUEST) + 1)])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an orderly end
        sock.close()
    ended_s = time.monotonic()
    while len(list(fds.iterdir())) > before and time.monotonic() - ended_s < 60:
        pass
    assert len(list(fds.iterdir())) <= before
    with contextlib.closing(served.connect()) as sock:
        sock.sendall(REQUEST.replace(b"host", b"connection: close\r\nhost", 1))
        assert read_all(sock).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("protocol", [b"websocket", b"h2c"])
@pytest.mark.parametrize("request_text", [REQUEST, b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"])
def test_an_offer_to_speak_something_else_is_ignored(protocol, request_text):
    async def run():
        async with serving() as (port, _):
            offer = b"connection: Upgrade, close\r\nUpgrade: %s\r\nhost" % protocol
            return await say(port, request_text.replace(b"host", offer, 1), end=False)

    assert asyncio.run(run()).startswith(b"HTTP/1.1 200")
