"""The answer to a request that is refused in the middle of its body reaches a client that sends all of it first."""

import asyncio
import contextlib
import re
import socket
import ssl
import threading
import time

import pytest
from certificates import client_context
from fronts import serving, tls_of

INFER = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: localhost\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
MORE = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


def connected(port, files):
    sock = socket.create_connection(("127.0.0.1", port), timeout=20)
    return sock if files is None else client_context(files).wrap_socket(sock, server_hostname="127.0.0.1")


def sent_then_read(port, files, pieces):
    """Send everything and only then read, as a plain client does."""
    answer = b""
    with connected(port, files) as sock:
        for piece in pieces:
            sock.sendall(piece)
        with contextlib.suppress(ssl.SSLEOFError):  # the end without goodbye
            while not is_whole(answer) and (chunk := sock.recv(65536)):
                answer += chunk
    return answer


def is_whole(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    return length is not None and len(body) == int(length[1])


def chunks(count, size=1 << 16):
    yield CHUNKED
    for _ in range(count):
        yield b"%x\r\n%s\r\n" % (size, b"x" * size)


LARGE = 6 << 20
REFUSED = {
    "its length says so": ([INFER, b"content-length: %d\r\n\r\n" % LARGE, b"x" * LARGE], 413),
    "its chunks say so": ([INFER, *chunks(LARGE >> 16), b"0\r\n\r\n"], 413),
    "compressed": ([INFER, b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % LARGE, b"x" * LARGE], 415),
    "no such model": (
        [INFER.replace(b"tiny", b"none"), b"content-length: %d\r\n\r\n" % (1 << 19), b"x" * (1 << 19)],
        404,
    ),
    "no HTTP": ([INFER, CHUNKED + b"zz\r\n", b"x" * LARGE], 400),
    "no HTTP and no model": ([INFER.replace(b"tiny", b"none") + CHUNKED + b"zz\r\n", b"x" * LARGE], 400),
    "no waiting for 100": (
        [INFER.replace(b"infer", b"x"), b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % LARGE, b"x" * LARGE],
        404,
    ),
    "long headers": ([INFER, b"x: y\r\n" * 500_000], 431),
}


@pytest.mark.parametrize("case", REFUSED)
def test_who_sends_all_of_a_refused_body_reads_why(loop, files, case):
    pieces, status = REFUSED[case]

    async def run():
        async with serving(tls_of(files), body_bytes_max=1 << 20) as port:
            return await asyncio.to_thread(sent_then_read, port, files, pieces)

    answer = loop(run())
    assert answer.startswith(b"HTTP/1.1 %d" % status) and answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close" in answer or case == "no waiting for 100"


def test_nothing_behind_a_refused_body_is_answered(loop, files, monkeypatch):
    monkeypatch.setattr("test_last_words.is_whole", lambda _: False)  # whatever comes is read
    pieces = [INFER, b"content-length: %d\r\n\r\n" % LARGE, b"x" * LARGE + MORE * 3]

    async def run():
        async with serving(tls_of(files), body_bytes_max=1 << 20, linger_s_max=2) as port:
            return await asyncio.to_thread(sent_then_read, port, files, pieces)

    assert loop(run()).count(b"HTTP/1.1") == 1


def test_a_refused_body_without_end_is_read_up_to_a_bound(loop, files):
    def flood(port):
        sent = 0
        with connected(port, files) as sock, contextlib.suppress(OSError):
            sock.sendall(INFER + CHUNKED)
            while sent < 400 << 20:
                sock.sendall(b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20)))
                sent += 1 << 20
        return sent

    async def run():
        async with serving(tls_of(files), body_bytes_max=1 << 20, linger_bytes_max=8 << 20) as port:
            return await asyncio.to_thread(flood, port)

    assert loop(run()) < 64 << 20  # what the kernel holds comes on top


def test_a_refused_body_that_never_ends_is_waited_for_no_longer_than_the_bound(loop, files):
    def drip(port):
        began_s, stopped = time.monotonic(), threading.Event()
        with connected(port, files) as sock, contextlib.suppress(OSError):
            sock.sendall(INFER + b"content-length: 4000000\r\n\r\n")
            while not stopped.wait(0.02) and time.monotonic() - began_s < 20:
                sock.sendall(b"x")
        return time.monotonic() - began_s

    async def run():
        async with serving(tls_of(files), body_bytes_max=1 << 20, linger_s_max=0.3) as port:
            return await asyncio.to_thread(drip, port)

    assert loop(run()) < 10


def test_who_waits_for_the_end_instead_of_sending_gets_it_at_once(loop):
    async def run():
        async with serving(None, body_bytes_max=1 << 20, linger_s_max=60) as port:
            return await asyncio.to_thread(sent_then_read, port, None, [INFER + b"content-length: 4000000\r\n\r\n{"])

    assert loop(run()).startswith(b"HTTP/1.1 413")
