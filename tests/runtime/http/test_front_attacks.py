"""Attacks on the front: what one client does must not cost the others their memory, their place or their answers."""

import asyncio
import contextlib
import json
import socket

import pytest
from asking import GOOD, Client, tensor
from fake_service import FakeService, free_socket
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from pipeline.runtime.http.app import build_app
from pipeline.runtime.http.infer import Inference
from pipeline.runtime.http.server import serve_app
from pipeline.runtime.http.settings import FrontSettings, Limits

BODY = json.dumps(GOOD).encode()
INFER = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: localhost\r\n"
REQUEST = INFER + b"content-length: %d\r\n\r\n%s" % (len(BODY), BODY)
SMALL = b"GET /v2 HTTP/1.1\r\nhost: localhost\r\n\r\n"
LAST = b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class Held(FakeService):
    """A service that answers when it is told to."""

    def __init__(self):
        super().__init__()
        self.reached, self.let_go = asyncio.Event(), asyncio.Event()

    async def infer(self, *args):
        self.reached.set()
        await self.let_go.wait()
        return await super().infer(*args)


@contextlib.asynccontextmanager
async def held_front(**limits):
    service, sock = Held(), free_socket()
    front = FrontSettings(limits=Limits(**limits), drain_s_max=5)

    async def drain():
        service.ending = True

    running = asyncio.create_task(serve_app(build_app(service, front), [sock], front, drain))
    try:
        yield sock.getsockname()[1], service
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def ended(reader):
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), 30)
    return b""


@pytest.mark.parametrize("data", [b"garbage\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"a" * 40_000])
def test_garbage_behind_a_request_is_not_refused_in_the_place_of_its_answer(data):
    async def run():
        async with held_front() as (port, service):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST + data)
            await service.reached.wait()
            service.let_go.set()
            answer = await ended(reader)
            writer.close()
            return answer

    answer = asyncio.run(run())
    assert answer.startswith(b"HTTP/1.1 200") and answer.count(b"HTTP/1.1") == 1 and b"connection: close" in answer


def test_a_broken_body_behind_a_request_is_not_refused_in_the_place_of_its_answer():
    async def run():
        async with held_front() as (port, service):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(REQUEST + INFER + b"transfer-encoding: chunked\r\n\r\nzz\r\n")
            answer = await ended(reader)
            service.let_go.set()
            writer.close()
            return answer

    assert b" 400 " not in asyncio.run(run())


def test_a_flood_of_pipelined_requests_is_not_kept_in_memory():
    async def run():
        begun = 0
        made = RequestResponseCycle.__init__

        def counted(self, *args, **kwargs):
            nonlocal begun
            begun += 1
            made(self, *args, **kwargs)

        RequestResponseCycle.__init__ = counted
        try:
            async with held_front(pipelined_max=8) as (port, service):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(REQUEST)
                await service.reached.wait()
                writer.write(SMALL * 800)  # 32 kB: no head is too long
                await writer.drain()
                service.let_go.set()
                answer = await ended(reader)
                writer.close()
        finally:
            RequestResponseCycle.__init__ = made
        return begun, answer

    begun, answer = asyncio.run(run())
    assert begun <= 10
    assert answer.count(b"HTTP/1.1 200") == begun and answer.startswith(b"HTTP/1.1 200")  # what was taken is answered


async def _said(data):
    async with held_front() as (port, service):
        service.let_go.set()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        answer = await ended(reader)
        writer.close()
        return answer


@pytest.mark.parametrize("host", [b"localhost", b"elsewhere.example"])
def test_a_body_after_head_is_not_sent_to_pass_for_the_answer_to_the_next_request(host):
    head = b"HEAD /v2/models/tiny/infer HTTP/1.1\r\nhost: %s\r\n\r\n" % host
    answer = asyncio.run(_said(head + REQUEST.replace(b"\r\n", b"\r\nconnection: close\r\n", 1)))
    _, _, second = answer.partition(b"\r\n\r\n")
    assert second.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("extra", [b"content-encoding: gzip\r\n", b""])
def test_no_request_is_answered_after_one_whose_answer_said_close(extra):
    path = b"tiny" if extra else b"nope"
    refused = b"POST /v2/models/%s/infer HTTP/1.1\r\nhost: localhost\r\n%scontent-length: 2\r\n\r\n{}" % (path, extra)
    answer = asyncio.run(_said(refused + REQUEST))
    assert b"connection: close\r\n" in answer and answer.count(b"HTTP/1.1 ") == 1


def test_what_follows_a_chunked_body_is_no_header():
    async def run(trailers):
        async with held_front() as (port, service):
            service.let_go.set()
            body = b"%x\r\n%s\r\n0\r\n%s\r\n" % (len(BODY), BODY, trailers)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(INFER + b"transfer-encoding: chunked\r\n\r\n" + body + LAST)
            answer = await ended(reader)
            writer.close()
            return answer

    forged = b"host: evil.example\r\nhotspare-timeout-ms: x\r\nauthorization: Bearer x\r\n"
    assert asyncio.run(run(forged)).count(b"HTTP/1.1 200") == 2


def test_trailers_without_end_are_not_kept():
    async def run():
        async with held_front() as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(INFER + b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + b"a" * 2_000_000)
            answer = await ended(reader)
            writer.close()
            return answer

    assert asyncio.run(run()).startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize(
    ("before", "offer"),
    [(b"", (b"uPGrade: h2c\r\n",)), (b"", (b"Upgr", b"ade: h2c\r\n")), (SMALL, (b"Upgrade: h2c\r\n",))],
)
def test_a_body_behind_an_offer_to_speak_something_else_is_no_request(before, offer):
    async def run():
        async with held_front() as (port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            head = INFER + b"connection: Upgrade\r\ncontent-length: %d\r\n" % len(LAST)
            for piece in (before + head + offer[0], *offer[1:], b"\r\n", LAST):
                writer.write(piece)
                await asyncio.sleep(0.02)  # the pieces are to arrive one by one
            answer = await ended(reader)
            writer.close()
            return answer

    answer = asyncio.run(run())
    assert answer.count(b"HTTP/1.1 200") == before.count(b"GET") and answer.count(b"HTTP/1.1 400") == 1


def test_a_client_that_never_reads_loses_its_connection():
    async def run():
        async with held_front(idle_s_max=0.2) as (port, _):
            with contextlib.closing(socket.socket()) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.connect(("127.0.0.1", port))
                sock.setblocking(False)
                page = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
                loop = asyncio.get_running_loop()
                with pytest.raises(ConnectionError):
                    async with asyncio.timeout(20):
                        while True:
                            await loop.sock_sendall(sock, page)
                            await asyncio.sleep(0.01)

    asyncio.run(run())


async def until_done(tasks, count):
    """Wait until so many have ended; returns those, and the others."""
    async with asyncio.timeout(30):
        while sum(task.done() for task in tasks) < count:
            await asyncio.sleep(0.005)
    return await asyncio.wait(tasks, timeout=0.1)


def test_a_thousand_large_bodies_at_once_have_a_bound_together():
    front = FrontSettings(limits=Limits(body_bytes_max=1000, bodies_bytes_max=5000))
    inference = Inference(FakeService(), front)
    path, headers = ["tiny"], {}

    async def run():
        gate = asyncio.Event()

        def uploading():
            left = [b"x" * 10, b"y" * 900]

            async def receive():
                if not left:
                    await gate.wait()
                    return {"type": "http.disconnect"}
                return {"type": "http.request", "body": left.pop(0), "more_body": True}

            return receive

        tasks = [asyncio.create_task(inference.reply(path, headers, uploading())) for _ in range(50)]
        done, waiting = await until_done(tasks, 44)

        async def small():
            return {"type": "http.request", "body": BODY, "more_body": False}

        meanwhile = await inference.reply(path, headers, small)
        gate.set()
        await asyncio.gather(*waiting)
        after = await inference.reply(path, headers, uploading_whole())
        return [task.result() for task in done], len(waiting), meanwhile, after

    def uploading_whole():
        pieces = [(BODY[:20], True), (BODY[20:], False)]

        async def receive():
            body, more = pieces.pop(0)
            return {"type": "http.request", "body": body, "more_body": more}

        return receive

    refused, waiting, meanwhile, after = asyncio.run(run())
    assert {reply.status for reply in refused} == {503} and waiting <= 6
    assert (meanwhile.status, after.status) == (200, 200)


@pytest.mark.parametrize(
    "origin",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost.evil.example:8000"},
        {"origin": "http://203.0.113.9"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_site_cannot_post(client, origin):
    for path in ("/v2/models/tiny/infer", "/admin/models/tiny/swap"):
        reply = client.ask("POST", path, GOOD, origin)
        assert reply.status == 403 and "another site" in reply.json["error"]


@pytest.mark.parametrize(
    "origin",
    [
        {},
        {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"},
        {"origin": "http://127.0.0.1:3000"},
        {"origin": "https://shop.example", "sec-fetch-site": "same-origin"},
        {"host": "192.0.2.7:8080", "origin": "http://192.0.2.7:8080"},
    ],
)
def test_a_page_of_our_own_can_post(service, origin):
    client = Client(service, FrontSettings(hosts=("shop.example",)))
    assert client.ask("POST", "/v2/models/tiny/infer", GOOD, origin).status == 200


@pytest.mark.parametrize(
    "data",
    [
        {"shape": [2**62, 4]},
        {"shape": [2**31, 2**31]},
        {"shape": [-1, -4]},
        {"shape": [10**30, 4]},
        {"parameters": {"binary_data_size": -16}},
        {"parameters": {"binary_data_size": 2**70}},
        {"data": [[[[[[1, 2, 3, 4]]]]]]},
    ],
)
def test_sizes_that_lie_are_refused(client, data):
    reply = client.infer({"inputs": [{**tensor(), **data}]})
    assert reply.status == 400


def test_bottomless_json_is_refused(client):
    depth = 200_000
    assert client.infer(b'{"inputs":' + b"[" * depth + b"]" * depth + b"}").status == 400


def test_a_path_in_the_log_cannot_steer_a_terminal(service):
    records = []
    client = Client(service, FrontSettings(access_log=records.append))
    client.ask("GET", "/\x9b31m\u202e\n")
    assert records[0]["path"] == "/\\x9b31m\\u202e\\n"


def test_a_path_without_end_does_not_fill_the_log(service):
    records = []
    client = Client(service, FrontSettings(access_log=records.append))
    client.ask("GET", "/v2/models/" + "\x01" * 30_000)
    assert len(records[0]["path"]) <= 2000


@pytest.mark.parametrize("mark", [b"[],", b"{},", b'"x",', b"[1],"])
def test_millions_of_lists_do_not_hold_the_others_up(client, mark):
    reply = client.infer(b'{"inputs":[' + mark * 300_000 + b"[]]}")
    assert reply.status == 400 and "send 'data' flat" in reply.json["error"]


@pytest.mark.parametrize("number", [b"1", b"-0.1234567890123456", b"null"])
def test_millions_of_numbers_do_not_hold_the_others_up(client, number):
    reply = client.infer(b'{"inputs":[{"data":[' + (number + b",") * 500_001 + b"1]}]}")
    assert reply.status == 400 and "binary" in reply.json["error"] and "500000" in reply.json["error"]


def test_as_many_json_numbers_as_are_read_are_answered(service):
    client = Client(service, FrontSettings(limits=Limits(rows_max=125_000)))
    head = b'{"inputs":[{"name":"features","datatype":"FP32","shape":[124996,4],"data":['
    assert client.infer(head + b"1," * (4 * 124_996 - 1) + b"1]}]}").status == 200


def test_as_many_rows_as_a_body_can_hold_do_not_hold_the_others_up(service):
    client = Client(service, FrontSettings(limits=Limits(rows_max=8)))
    assert client.infer({"inputs": [tensor(shape=(8, 4), data=[1] * 32)]}).status == 200
    reply = client.infer({"inputs": [tensor(shape=(9, 4), data=[1] * 36)]})
    assert reply.status == 400 and "9 rows" in reply.json["error"]


@pytest.mark.parametrize(
    "hosts",
    [
        b"",
        b"host: localhost\r\nhost: localhost\r\n",
        b"host: evil.example\r\nHOST: localhost\r\n",
        b"host: localhost\r\nx: y\r\nx: y\r\nHost: evil.example\r\n",
    ],
)
@pytest.mark.parametrize("path", [b"GET /v2", b"POST /v2/models/tiny/infer"])
def test_a_request_without_one_host_is_refused_and_nothing_behind_it_is_answered(hosts, path):
    head = path + b" HTTP/1.1\r\n" + hosts + b"content-length: %d\r\n\r\n" % len(BODY)
    answer = asyncio.run(_said(head + BODY + LAST))
    assert answer.startswith(b"HTTP/1.1 400") and b"one Host header" in answer and answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("hosts", [b"", b"host: localhost\r\n"])
def test_http_1_0_needs_no_host_but_has_at_most_one(hosts):
    assert asyncio.run(_said(b"GET /v2 HTTP/1.0\r\n" + hosts + b"\r\n")).startswith(b"HTTP/1.1 200")
    assert b" 400 " in asyncio.run(_said(b"GET /v2 HTTP/1.0\r\nhost: a\r\nhost: localhost\r\n\r\n"))


def test_other_headers_may_come_twice():
    twice = b"accept: */*\r\naccept: text/html\r\n"
    assert asyncio.run(_said(LAST.replace(b"host", twice + b"host", 1))).startswith(b"HTTP/1.1 200")
