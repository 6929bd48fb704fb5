"""A hostile or broken HTTP server can keep us waiting for a while, and no more."""

import contextlib
import functools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import HTTPServer, SimpleHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from pipeline.core.errors import FileAccess, HotspareError, Malformed, Unreachable
from pipeline.delivery.transports import web
from pipeline.delivery.transports.http import HttpDepot
from pipeline.delivery.transports.web import WebServer

Serve = Callable[..., HttpDepot]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that gives each connection the next of these raw answers; ``asked`` gets the requests."""
    listeners, threads = [], []

    def start(*answers: bytes, stay_open: bool = False, asked: list[bytes] | None = None) -> HttpDepot:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            held = []
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                request = connection.recv(65536)
                if asked is not None:
                    asked.append(request)
                connection.sendall(answer)
                if stay_open:
                    held.append(connection)
                else:
                    connection.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        threads.append(thread)
        return HttpDepot.at(f"http://127.0.0.1:{listener.getsockname()[1]}/depot")

    yield start
    for listener in listeners:
        listener.close()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def test_a_line_of_a_stranger_is_told_in_short(serve: Serve) -> None:
    """It stands in the log of a node that asks again and again."""
    with pytest.raises(Unreachable) as caught:
        serve(b"\x01" * 60_000 + b"\r\n\r\n").read("channel.sig", 100)
    assert len(str(caught.value)) < 2000


def test_a_redirect_is_not_followed_to_any_scheme(serve: Serve) -> None:
    for target in ("file:///etc/passwd", "ftp://host/x", "http://127.0.0.1:1/x"):
        depot = serve(answer(b"", f"Location: {target}", "Content-Length: 0", status="302 Found"))
        with pytest.raises(FileAccess, match="not followed"):
            depot.read("a", 10)


def test_an_answer_that_says_it_is_too_large_is_not_read(serve: Serve) -> None:
    with pytest.raises(Malformed):
        serve(answer(b"", "Content-Length: 11"), stay_open=True).read("a", 10)


@pytest.mark.parametrize("headers", [(), ("Transfer-Encoding: chunked",)])
def test_an_answer_that_hides_its_size_is_cut_at_the_limit(serve: Serve, headers: tuple[str, ...]) -> None:
    body = b"4000\r\n" + bytes(0x4000) + b"\r\n" if headers else bytes(0x4000)
    with pytest.raises(Malformed):
        serve(answer(body * 20, *headers), stay_open=True).read("a", 100_000)


def test_an_answer_that_was_cut_off_is_no_answer(serve: Serve) -> None:
    with pytest.raises(Unreachable, match="cut off"):
        serve(answer(b"half", "Content-Length: 8")).read("a", 10)


def test_a_server_that_falls_silent_is_given_up(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SILENCE_S", 0.05)
    with pytest.raises(Unreachable):
        serve(answer(b"half", "Content-Length: 8"), stay_open=True).read("a", 10)


_HEAD = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = _HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
_DRIPS = {
    "its status": (b"HTTP/1.1 2", b"0"),
    "a header": (_HEAD, b"X"),
    "headers": (_HEAD, b"X: y\r\n"),
    "that it goes on": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a chunk's head": (_CHUNKED, b"0"),
    "trailers": (_CHUNKED + b"0\r\n", b"a: b\r\n"),
    "its body": (_HEAD + b"Content-Length: 99999\r\n\r\n", b"x"),
}


@contextlib.contextmanager
def _dripping(begin: bytes, drop: bytes, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that begins an answer and goes on with drops for ever, never silent for long; yields its port."""
    has_ended = threading.Event()

    def run() -> None:
        connection, _ = listener.accept()
        with contextlib.suppress(OSError), connection if tls is None else tls.wrap_socket(connection, True) as line:
            line.recv(65536)
            line.sendall(begin)
            while not has_ended.wait(0.01):
                line.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        has_ended.set()
        thread.join()


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_ANSWER_S", 0.1)
    monkeypatch.setattr(web, "_BYTES_PER_S_MIN", 1 << 30)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("what", _DRIPS)
def test_a_server_that_drips_any_part_of_an_answer_is_given_up(what: str) -> None:
    with _dripping(*_DRIPS[what]) as port, pytest.raises(Unreachable, match=r"does not answer \(it stalls\)"):
        HttpDepot.at(f"http://127.0.0.1:{port}/depot").read("a", 100_000)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("what", ["a header", "that it goes on", "trailers", "its body"])
def test_a_server_that_drips_behind_tls_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    certificate = _certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with (
        _dripping(*_DRIPS[what], tls=_tls(certificate)) as port,
        pytest.raises(Unreachable, match=r"does not answer \(it stalls\)"),
    ):
        HttpDepot.at(f"https://127.0.0.1:{port}/depot").read("a", 100_000)


def test_a_server_that_drips_its_greeting_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SILENCE_S", 0.1)
    hello = b"\x16\x03\x03\x40\x00"  # 16 kB are to follow
    with _dripping(hello, b"\x02") as port, pytest.raises(Unreachable, match="timed out"):
        HttpDepot.at(f"https://127.0.0.1:{port}/depot").read("a", 10)


def test_an_answer_in_time_leaves_nobody_who_could_cut_the_connection_that_others_use_next(
    served: tuple[Path, str],
) -> None:
    folder, address = served
    (folder / "a").write_bytes(b"abc")
    depot = HttpDepot.at(address)
    assert depot.read("a", 10) == b"abc"
    (idle,) = depot.server._idle
    line = idle.sock
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
    assert depot.read("a", 10) == b"abc"
    assert depot.server._idle == [idle]
    assert idle.sock is line
    depot.close()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("500 Oops", Unreachable),
        ("503 Busy", Unreachable),
        ("429 Slow", Unreachable),
        ("401 No", FileAccess),
        ("206 Part", FileAccess),
    ],
)
def test_a_refusal_says_whether_to_try_again(serve: Serve, status: str, error: type[HotspareError]) -> None:
    with pytest.raises(error):
        serve(answer(b"x", "Content-Length: 1", status=status)).read("a", 10)


@pytest.mark.parametrize(
    "raw", [b"", b"\x00\x01", b"HTTP/9.9 what", b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc"]
)
def test_nonsense_is_no_answer(serve: Serve, raw: bytes) -> None:
    with pytest.raises((Unreachable, Malformed)):
        serve(raw, raw).read("a", 2)


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(serve: Serve) -> None:
    whole = answer(b"abc", "Content-Length: 3")
    depot = serve(whole, whole)
    assert depot.read("a", 10) == b"abc"
    assert depot.read("a", 10) == b"abc"


def test_no_proxy_is_used_and_no_credential_sent(serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HOTSPARE_TOKEN", "secret")
    (tmp_path / ".netrc").write_text("default login secret password secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[bytes] = []
    assert serve(answer(b"abc", "Content-Length: 3"), asked=asked).read("a", 10) == b"abc"
    assert asked[0].startswith(b"GET /depot/a HTTP/1.1\r\n")
    assert b"secret" not in asked[0]
    assert b"Authorization" not in asked[0]


def _certificate(folder: Path) -> Path:
    """Write a certificate of 127.0.0.1 that signed itself, and its key, into one file."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a depot")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    whole = made.sign(key, SHA256()).public_bytes(Encoding.PEM) + key.private_bytes(*form)
    (folder / "depot.pem").write_bytes(whole)
    return folder / "depot.pem"


def _tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_a_server_whose_certificate_nobody_vouches_for_is_not_read(
    tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = served
    (folder / "a").write_bytes(b"abc")
    certificate = _certificate(tmp_path)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = HTTPServer(("127.0.0.1", 0), handler)
    server.socket = _tls(certificate).wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        address = f"https://127.0.0.1:{server.server_port}"
        with pytest.raises(Unreachable, match="certificate"):
            HttpDepot.at(address).read("a", 10)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))  # as a machine is told of an authority of its own
        assert HttpDepot.at(address).read("a", 10) == b"abc"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("host", ["a..b", ".example", "a" * 64, "a\0b"])
@pytest.mark.parametrize("is_tls", [False, True])
def test_a_name_that_no_host_can_have_is_unreachable(host: str, is_tls: bool) -> None:
    server = WebServer(host, None, ssl.create_default_context() if is_tls else None)
    with pytest.raises(Unreachable, match="The depot does not answer"):
        server.ask("GET", "/", "The depot", 10)


def test_nobody_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match="try later"):
        HttpDepot.at(f"http://127.0.0.1:{port}").read("a", 10)
