"""Where MLflow's webhook knocks: a small HTTP server that believes signed messages alone, and only wakes the loop."""

import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pipeline.core.clock import utc_now
from pipeline.core.environment import WEBHOOK_SECRET
from pipeline.core.errors import Unreachable, UsageError
from pipeline.registry.webhook import BODY_BYTES_MAX, SECRET_LENGTH_MIN, AliasEvent, Denied, judge_delivery

_SECONDS_MAX = 10.0
_CONNECTIONS_MAX = 16
_POLL_SECONDS = 0.05
_LENGTH_DIGITS_MAX = 9
_TOLD_EVERY_SECONDS = 60.0

Moved = Callable[[AliasEvent], None]
Refused = Callable[[str], None]


@dataclass(frozen=True)
class Door:
    """Where to listen."""

    host: str
    port: int


def parse_door(text: str) -> Door:
    """Read ``HOST:PORT`` or ``:PORT``, which listens on loopback; raises UsageError for anything else."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise UsageError(f"--webhook {text} is no address to listen at; give HOST:PORT, e.g. 127.0.0.1:8090.")
    return Door(host.strip("[]") or "127.0.0.1", int(port))


def require_secret(text: str | None) -> str:
    """Return the webhook's secret; raises UsageError where it is missing or short."""
    if text is None or len(text) < SECRET_LENGTH_MIN:
        raise UsageError(
            f"--webhook needs the secret that MLflow signs with: set {WEBHOOK_SECRET} to that of MLflow's webhook, "
            f"{SECRET_LENGTH_MIN} characters or more."
        )
    return text


@contextmanager
def listening(door: Door, secret: str, moved: Moved, refused: Refused) -> Iterator[Door]:
    """Listen in threads of its own; yields where. ``moved`` and ``refused`` are called from these threads.

    ``refused`` is told at most one reason a minute, and how many came since the one before.
    Raises Unreachable when the address cannot be listened at.
    """
    try:
        server = _Server((door.host, door.port), secret, moved, refused)
    except OSError as error:
        raise Unreachable(f"Nothing can listen at {door.host}:{door.port} ({error.strerror or error}).") from error
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
    thread.start()
    try:
        yield Door(door.host, server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], secret: str, moved: Moved, refused: Refused) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)
        self.secret, self.moved, self.refused = secret, moved, _Sparingly(refused)
        self.free = threading.BoundedSemaphore(_CONNECTIONS_MAX)

    def process_request(self, request: object, client_address: object) -> None:
        """Take a connection, or drop it when there are too many; MLflow sends again."""
        if self.free.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            self.shutdown_request(request)  # type: ignore[arg-type]

    def process_request_thread(self, request: object, client_address: object) -> None:
        """Answer one connection, which is cut off when it takes too long, however slowly it goes on."""
        cut = threading.Timer(_SECONDS_MAX, _cut, (request,))
        cut.daemon = True
        cut.start()
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            cut.cancel()
            self.free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whoever broke the connection knows."""


class _Sparingly:
    """Tells one refusal a minute and counts the others: anybody may knock, as often as they like."""

    def __init__(self, refused: Refused) -> None:
        self._refused, self._lock = refused, threading.Lock()
        self._told_at, self._untold = -math.inf, 0

    def __call__(self, reason: str) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._told_at < _TOLD_EVERY_SECONDS:
                self._untold += 1
                return
            more = f" (and {self._untold:,} others since the last one told)" if self._untold else ""
            self._told_at, self._untold = now, 0
            self._refused(f"{reason}{more}")


def _cut(request: socket.socket) -> None:
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # It has ended by itself.


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "hotspare", ""
    timeout = _SECONDS_MAX

    def do_POST(self) -> None:
        """Take one message of MLflow's."""
        body = self._body()
        if body is None:
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        found = judge_delivery(headers, body, self.server.secret, utc_now())
        if isinstance(found, Denied):
            self.server.refused(f"{self.client_address[0]}: {found.reason}")
            self._answer(found.status)
            return
        if isinstance(found, AliasEvent):
            self.server.moved(found)
        self._answer(204)

    def _body(self) -> bytes | None:
        """Read the body; None when it was refused, unread."""
        told = self.headers.get("content-length", "")
        if self.headers.get("transfer-encoding") or not (told.isascii() and told.isdigit()):
            self._answer(411)
            return None
        if len(told) > _LENGTH_DIGITS_MAX or int(told) > BODY_BYTES_MAX:
            self._answer(413)
            return None
        return self.rfile.read(int(told))

    def _answer(self, status: int) -> None:
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing: what is refused is told in the log of ``follow``."""
