"""Each toxic does to real connections what its name says, and is over when it is taken back."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.drill.live.toxics import Proxy

PATIENCE_S = 30.0
HUNG_UP = (ConnectionResetError, BrokenPipeError)  # the second where the reset was heard before


class Echo(threading.Thread):
    """Sends back what it is sent."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.listening.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(65536):
                connection.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    echo = Echo()
    echo.start()
    made = Proxy(echo.port)
    made.start()
    yield made
    made.stop()
    echo.listening.close()


def connected(proxy: Proxy, patience_s: float = PATIENCE_S) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=patience_s)


def exchanged(connection: socket.socket, text: bytes, length: int | None = None) -> bytes:
    connection.sendall(text)
    got = b""
    while len(got) < (length or len(text)):
        got += connection.recv(65536)
    return got


def test_without_a_toxic_bytes_pass_as_they_are(proxy):
    big = bytes(range(256)) * 4000
    with connected(proxy) as connection:
        assert exchanged(connection, b"hello") == b"hello"
        assert exchanged(connection, big) == big


def test_delayed_bytes_come_later_in_both_directions_and_in_their_order(proxy):
    with connected(proxy) as connection:
        with proxy.delaying(30, jitter_ms=20):
            began = time.monotonic()
            pieces = [bytes([65 + number]) * 40 for number in range(20)]
            for piece in pieces[:-1]:
                connection.sendall(piece)
            assert exchanged(connection, pieces[-1], len(pieces) * 40) == b"".join(pieces)
            assert time.monotonic() - began >= 0.06
        assert exchanged(connection, b"hello") == b"hello"


def test_dropped_bytes_never_come_and_those_after_do(proxy):
    with connected(proxy, patience_s=1.0) as connection:  # by then the proxy has read it, on a busy machine too
        with proxy.dropping():
            connection.sendall(b"lost")
            with pytest.raises(TimeoutError):
                connection.recv(1)
        connection.settimeout(PATIENCE_S)
        assert exchanged(connection, b"hello") == b"hello"


def test_connections_are_reset_and_new_ones_too_while_it_lasts(proxy):
    with connected(proxy) as connection:
        assert exchanged(connection, b"hello") == b"hello"
        with proxy.resetting():
            with pytest.raises(ConnectionResetError):
                exchanged(connection, b"hello")
            with pytest.raises(HUNG_UP), connected(proxy) as other:
                exchanged(other, b"hello")
        with connected(proxy) as other:
            assert exchanged(other, b"hello") == b"hello"


def test_the_end_of_one_side_reaches_the_other(proxy):
    with connected(proxy) as connection:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(16) == b"bye"
        assert connection.recv(16) == b""


def test_a_server_that_is_gone_resets(proxy):
    gone = socket.create_server(("127.0.0.1", 0))
    port = gone.getsockname()[1]
    gone.close()
    before = Proxy(port)
    before.start()
    with pytest.raises(HUNG_UP), connected(before) as connection:
        exchanged(connection, b"hello")
    before.stop()
    before.stop()  # twice does no harm
