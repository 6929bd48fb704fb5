"""``hotspare swap``: the token goes to the server that was named, and nowhere else."""

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from pipeline.cli import main


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


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://", "http://[::1", "http://localhost:x"])
def test_what_is_no_address_is_refused_before_the_token_goes_anywhere(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["swap", "tiny", "--url", url]) == 2
    assert "no http or https address" in capsys.readouterr().err
