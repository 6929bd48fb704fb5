"""One web server, asked within bounds: no redirects, no proxies, no cookies; sizes and time bounded while reading."""

import contextlib
import http.client
import io
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from types import MappingProxyType
from urllib.parse import SplitResult

from pipeline.core.errors import FileAccess, HotspareError, Malformed, Unreachable

ABSENT = frozenset({404, 410})

_SILENCE_S = 20.0  # of a server that is to answer, or is answering, or is to take what is sent
_ANSWER_S = 60.0
_BYTES_PER_S_MIN = 8_192  # slower than any link that a node lives on: this is a server that stalls
_PIECE = 1 << 16
_SHORT_BYTES_MAX = 1 << 12
_SAID_CHARS_MAX = 200  # of what a server said instead of HTTP
_BUSY = {408, 425, 429}
_DROPPED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Answer:
    """What a server said; the body is read of a 200, and where it is short: so the connection can be used again."""

    status: int
    headers: Message
    body: bytes


@dataclass(frozen=True)
class WebServer:
    """A host that speaks HTTP or HTTPS; connections are kept open and lent to one asker at a time."""

    host: str
    port: int | None
    tls: ssl.SSLContext | None
    _idle: list[http.client.HTTPConnection] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, parts: SplitResult, *, is_tls: bool) -> "WebServer":
        """Return the server of an address that was taken apart and has a host."""
        return cls(parts.hostname or "", parts.port, ssl.create_default_context() if is_tls else None)

    def ask(
        self,
        method: str,
        target: str,
        place: str,
        bytes_max: int,
        headers: Mapping[str, str] = _NO_HEADERS,
        body: bytes = b"",
    ) -> Answer:
        """Return the answer; ``place`` is what messages call the target, so it holds no secret.

        Raises Malformed for more than ``bytes_max`` bytes, Unreachable for an answer that stalls or is cut off.
        """
        sent = {"User-Agent": "hotspare", **headers, **({"Content-Length": str(len(body))} if body else {})}
        try:
            try:
                return self._ask(self._idle.pop(), method, target, place, bytes_max, sent, body)
            except (IndexError, *_DROPPED):
                # None is idle, or the server had closed it meanwhile.
                return self._ask(self._connection(), method, target, place, bytes_max, sent, body)
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: of names, whoever gave them
            said = str(error)[:_SAID_CHARS_MAX] or type(error).__name__
            raise Unreachable(f"{place} does not answer ({said}); check the address, or try later.") from error

    def close(self) -> None:
        """Close every connection."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=_SILENCE_S)
        return http.client.HTTPSConnection(self.host, self.port, timeout=_SILENCE_S, context=self.tls)

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        place: str,
        bytes_max: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Answer:
        seconds_max = _ANSWER_S + (len(body) + bytes_max) / _BYTES_PER_S_MIN
        is_clean = False
        try:
            if connection.sock is None:
                connection.connect()
            with _cut_after(seconds_max, connection.sock):
                # As a stream it goes in blocks, each of which may take the time that silence may.
                connection.request(method, target, body=io.BytesIO(body) if body else None, headers=dict(headers))
                answer = connection.getresponse()
                data, is_short = b"", answer.length is not None and answer.length <= _SHORT_BYTES_MAX
                is_read = answer.status == http.client.OK or is_short
                if is_read:
                    data = _bounded(answer, bytes_max if answer.status == http.client.OK else _SHORT_BYTES_MAX, place)
            is_clean = is_read and not answer.will_close
            return Answer(answer.status, answer.msg, data)
        finally:
            if is_clean:
                self._idle.append(connection)
            else:  # what is left of this answer would be taken for the next one
                connection.close()


def host_of(parts: SplitResult) -> str:
    """Return an address's host, or ""; raises ValueError for a port that is none and a name that none can have."""
    host, _ = parts.hostname or "", parts.port
    host.encode("idna")  # as whoever looks the name up will
    return host


def explained(answer: Answer, place: str, forbidden: str) -> HotspareError:
    """Return the error of an answer that is none of those that were hoped for; ``forbidden`` is advice for 4xx."""
    status = answer.status
    if 300 <= status < 400:
        return FileAccess(f"{place} sends us elsewhere (HTTP {status}), which is not followed; give its address.")
    if status >= 500 or status in _BUSY:
        return Unreachable(f"{place} answers HTTP {status}; try later.")
    return FileAccess(f"{place} answers HTTP {status}; {forbidden}.")


@contextlib.contextmanager
def _cut_after(seconds: float, connected: socket.socket) -> Iterator[None]:
    """Cut the connection off when what is done over it takes longer, however steadily it drips: raises TimeoutError."""
    is_cut = threading.Event()

    def cut() -> None:
        is_cut.set()
        with contextlib.suppress(OSError):  # It has ended by itself.
            line.shutdown(socket.SHUT_RDWR)

    # A descriptor of its own leads to this connection alone, whatever is closed meanwhile; and it knows nothing of TLS,
    # which `SSLSocket.shutdown` would take away: what comes after it would be taken for plain text.
    with socket.fromfd(connected.fileno(), connected.family, connected.type) as line:
        timer = threading.Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            if is_cut.is_set():
                raise TimeoutError("it stalls") from error
            raise
        finally:
            timer.cancel()
            timer.join()  # from here on nobody cuts: the connection may serve others
    if is_cut.is_set():  # what was cut off may look like the end of an answer
        raise TimeoutError("it stalls")


def _bounded(answer: http.client.HTTPResponse, bytes_max: int, place: str) -> bytes:
    told = answer.length
    if told is not None and told > bytes_max:
        raise Malformed(f"{place} is larger than {bytes_max} bytes; publish it again.")
    parts, size = [], 0
    while piece := answer.read1(_PIECE):
        parts.append(piece)
        size += len(piece)
        if size > bytes_max:
            raise Malformed(f"{place} is larger than {bytes_max} bytes; publish it again.")
    if told is not None and size != told:
        raise ConnectionError(f"it was cut off after {size} of {told} bytes")
    answer.close()  # else the connection would still wait for the end of it
    return b"".join(parts)
