"""Answers that nobody reads have a bound together: the slowest clients lose their connection, nobody else."""

import asyncio
import contextlib
import json
import re
import socket
import time

import numpy as np
import pytest
from asking import tensor
from certificates import client_context
from fake_service import free_socket
from fronts import serving, tls_of

from pipeline.runtime.http.unread import PIECE_BYTES, Unread, in_messages

ROWS = 150_000
ANSWER_BYTES = 4 * ROWS
WHOLE = np.ones(ROWS, "<f4").tobytes()
WANTED = {"binary_data_output": True}


def question(connection=b""):
    head = {"inputs": [tensor(shape=(ROWS, 4), data=[], parameters={"binary_data_size": 16 * ROWS})]}
    del head["inputs"][0]["data"]
    head["parameters"] = WANTED
    text = json.dumps(head).encode()
    body = text + np.ones((ROWS, 4), "<f4").tobytes()
    lines = b"POST /v2/models/tiny/infer HTTP/1.1\r\nhost: localhost\r\n%s" % connection
    return lines + b"inference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n" % (len(text), len(body)) + body


def serving_slow(files, **limits):
    sock = free_socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)  # the kernel is to keep little
    return serving(tls_of(files), sock, drain_s_max=1, rows_max=ROWS, **limits)


def connected(port, files):
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", port))
    return sock if files is None else client_context(files).wrap_socket(sock, server_hostname="127.0.0.1")


def read_to_the_end(sock):
    answer = b""
    with contextlib.suppress(OSError), sock:
        while chunk := sock.recv(1 << 20):
            answer += chunk
    return answer


def asked(port, files, *questions):
    """Ask one after the other: who sends the next one before he has read waits for the server, which waits for him."""
    answer = b""
    with connected(port, files) as sock:
        for number, data in enumerate(questions, 1):
            sock.sendall(data)
            while number < len(questions) and answer.count(WHOLE) < number:
                answer += sock.recv(1 << 20)
        return answer + read_to_the_end(sock)


def figure(port, files, name):
    page = asked(port, files, b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").decode()
    return float(re.search(rf"^{name} (\S+)$", page, re.MULTILINE)[1])


def test_unread_answers_have_a_bound_together_and_who_reads_gets_all(loop, files):
    def attack(port):
        silent = []
        for _ in range(12):
            silent.append(connected(port, files))
            silent[-1].sendall(question(b"connection: close\r\n"))
        until_s = time.monotonic() + 20
        while (closed := figure(port, files, "hotspare_http_unread_closed_total")) < 7 and time.monotonic() < until_s:
            time.sleep(0.01)
        held = figure(port, files, "hotspare_http_unread_bytes")
        answer = asked(port, files, question(b"connection: close\r\n"))
        return closed, held, answer, [read_to_the_end(sock) for sock in silent]

    async def run():
        async with serving_slow(files, unread_bytes_max=5 * ANSWER_BYTES + 4000) as port:
            return await asyncio.to_thread(attack, port)

    closed, held, answer, silent = loop(run())
    assert answer.endswith(WHOLE)
    assert closed == 7 and 0 < held <= 5 * ANSWER_BYTES + 4000
    whole = [one.endswith(WHOLE) for one in silent]
    assert 4 <= sum(whole) <= 5  # one more may be given up for who reads at last


@pytest.mark.parametrize("count", [1, 3])
def test_a_large_answer_is_the_same_in_pieces(loop, files, count):
    async def run():
        async with serving_slow(files) as port:
            asking = [question()] * (count - 1) + [question(b"connection: close\r\n")]
            return await asyncio.to_thread(asked, port, files, *asking)

    answer = loop(run())
    assert answer.count(WHOLE) == count == answer.count(b"HTTP/1.1 200")


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_messages_make_the_body(size, scheme):
    body = bytes(range(256)) * (size // 256 + 1)
    found = list(in_messages(body[:size], scheme))
    assert b"".join(one["body"] for one in found) == body[:size]
    assert [one["more_body"] for one in found] == [True] * (len(found) - 1) + [False]
    assert scheme == "http" or max(len(one["body"]) for one in found) <= PIECE_BYTES


class Hung:
    def __init__(self):
        self.aborted = False

    def abort(self):
        self.aborted = True


def test_the_longest_waiting_is_given_up_first_and_one_alone_never():
    unread, clients = Unread(10), [Hung() for _ in range(4)]
    with contextlib.ExitStack() as sending:
        sending.enter_context(unread.sending(50, clients[0]))
        assert not clients[0].aborted and unread.bytes == 50
        sending.enter_context(unread.sending(6, clients[1]))
        assert clients[0].aborted and unread.bytes == 6
        with unread.sending(4, clients[2]):
            assert unread.bytes == 10
        sending.enter_context(unread.sending(5, clients[3]))
    assert [one.aborted for one in clients] == [True, True, False, False]
    assert unread.bytes == 0 and unread.closed == 2
