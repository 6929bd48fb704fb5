"""``hotspare swap``: the token goes to the server that was named, and nowhere else."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.commands.node.running import _parsed


class Asked(http.server.BaseHTTPRequestHandler):
    """Writes down who asked for what, and answers as told."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.seen.append((self.path, self.headers["authorization"]))
        status, headers, body = self.server.answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    do_GET = do_POST  # noqa: N815 - the base class has it so

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Listening(http.server.ThreadingHTTPServer):
    """A server of the test's own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.seen: list[tuple[str, str | None]] = []
        self.answer: tuple[int, dict[str, str], object] = (200, {}, {"done": "swapped"})
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def listening() -> Iterator[list[Listening]]:
    servers = [Listening(), Listening()]
    for server in servers:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield servers
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSPARE_TOKEN", "hotspare_admin_x")


def test_the_order_is_sent_and_its_answer_printed(
    listening: list[Listening], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["swap", "tiny/../x", "--url", listening[0].url]) == 0
    assert listening[0].seen == [("/admin/models/tiny%2F..%2Fx/swap", "Bearer hotspare_admin_x")]
    assert capsys.readouterr().out == "swapped\n"


def test_a_proxy_never_sees_the_token(listening: list[Listening], monkeypatch: pytest.MonkeyPatch) -> None:
    server, proxy = listening
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    assert main(["swap", "tiny", "--url", server.url]) == 0
    assert (len(server.seen), proxy.seen) == (1, [])


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_does_not_carry_the_token_elsewhere(listening: list[Listening], status: int) -> None:
    server, other = listening
    server.answer = (status, {"location": f"{other.url}/admin/models/tiny/swap"}, {})
    assert main(["swap", "tiny", "--url", server.url]) != 0
    assert (len(server.seen), other.seen) == (1, [])


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "ftp://localhost",
        "http://",
        "http://[::1",
        "http://localhost:x",
        f"http://{'a' * 70}.example",
        "http://b\u00fccher..example",
        "http://localhost/\u00fc",
    ],
)
def test_what_is_no_address_is_refused_before_the_token_goes_anywhere(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["swap", "tiny", "--url", url]) == 2
    assert "no http or https address" in capsys.readouterr().err


@pytest.mark.parametrize("held", [b"", b"a\nsecret", b"\xf1secret", "\u2192secret".encode(), b"a secret"])
@pytest.mark.parametrize("in_file", [True, False])
def test_what_is_no_token_is_refused_and_not_shown(
    held: bytes,
    in_file: bool,
    listening: list[Listening],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "token").write_bytes(held)
    monkeypatch.setenv("HOTSPARE_TOKEN", os.fsdecode(held))
    arguments = ["--token-file", str(tmp_path / "token")] if in_file else []
    assert main(["swap", "tiny", "--url", listening[0].url, *arguments]) == 13
    told = capsys.readouterr().err
    assert "holds no token" in told and "secret" not in told
    assert listening[0].seen == []


def test_what_a_server_says_cannot_steer_a_terminal(
    listening: list[Listening], capsys: pytest.CaptureFixture[str]
) -> None:
    for body in ({"done": "\x1b[31m\x07"}, {"other": "\x1b[2J"}):
        listening[0].answer = (200, {}, body)
        assert main(["swap", "tiny", "--url", listening[0].url]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_answer_without_a_bottom_is_no_answer() -> None:
    assert _parsed(b"[" * 200_000) == {}
