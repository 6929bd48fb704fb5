"""A depot behind HTTP(S), read only: no redirects, no proxies, no credentials, sizes and time bounded while reading."""

import http.client
import re
import ssl
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from pipeline.core.errors import FileAccess, Malformed, Unreachable, UsageError

_SILENCE_S = 20.0  # of a server that is to answer, or is answering
_ANSWER_S = 60.0
_BYTES_PER_S_MIN = 8_192  # slower than any link that a node lives on: this is a server that stalls
_PIECE = 1 << 16
_ABSENT = {404, 410}
_BUSY = {408, 425, 429}
_DROPPED = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)
_PLAIN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class HttpDepot:
    """Any server of static files; connections are kept open and lent to one reader at a time."""

    address: str
    host: str
    port: int | None
    base: str
    tls: ssl.SSLContext | None
    lanes: int = 4  # simple servers queue five connections at most; one more waits a second
    _idle: list[http.client.HTTPConnection] = field(default_factory=list)

    @classmethod
    def at(cls, address: str) -> "HttpDepot":
        """Return the depot at an http(s) address; raises UsageError for one that could leak or that is none."""
        try:
            parts = urlsplit(address)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise UsageError(f"{address} is no http address ({error}).") from error
        if parts.username is not None or parts.password is not None:
            raise UsageError("A depot's address holds no user and password: they would show up in logs.")
        if not host or parts.query or parts.fragment or not _PLAIN.fullmatch(address):
            raise UsageError(f"{address} is no address of a depot; write http(s)://host[:port]/path.")
        tls = ssl.create_default_context() if parts.scheme.lower() == "https" else None
        return cls(address.rstrip("/"), host, port, parts.path.rstrip("/"), tls)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes, or None; an answer that stalls, or that is cut off, raises Unreachable."""
        place, target = f"{self.address}/{path}", f"{self.base}/{path}"
        try:
            try:
                return self._read(self._idle.pop(), target, place, bytes_max)
            except (IndexError, *_DROPPED):
                # None is idle, or the server had closed it meanwhile.
                return self._read(self._connection(), target, place, bytes_max)
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
            raise Unreachable(f"{place} does not answer ({said}); check the address, or try later.") from error

    def close(self) -> None:
        """Close every connection."""
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=_SILENCE_S)
        return http.client.HTTPSConnection(self.host, self.port, timeout=_SILENCE_S, context=self.tls)

    def _read(self, connection: http.client.HTTPConnection, target: str, place: str, bytes_max: int) -> bytes | None:
        is_clean = False
        try:
            connection.request("GET", target, headers={"User-Agent": "hotspare"})
            answer = connection.getresponse()
            if answer.status in _ABSENT:
                return None
            _require_ok(answer, place)
            data = _bounded(answer, bytes_max, place)
            is_clean = not answer.will_close
            return data
        finally:
            if is_clean:
                self._idle.append(connection)
            else:  # what is left of this answer would be taken for the next one
                connection.close()


def _require_ok(answer: http.client.HTTPResponse, place: str) -> None:
    if answer.status == http.client.OK:
        return
    if 300 <= answer.status < 400:
        raise FileAccess(f"{place} sends us elsewhere (HTTP {answer.status}), which is not followed; give its address.")
    if answer.status >= 500 or answer.status in _BUSY:
        raise Unreachable(f"{place} answers HTTP {answer.status}; try later.")
    raise FileAccess(f"{place} answers HTTP {answer.status}; let nodes read the depot without credentials.")


def _bounded(answer: http.client.HTTPResponse, bytes_max: int, place: str) -> bytes:
    told, deadline = answer.length, time.monotonic() + _ANSWER_S + bytes_max / _BYTES_PER_S_MIN
    if told is not None and told > bytes_max:
        raise Malformed(f"{place} is larger than {bytes_max} bytes; publish it again.")
    parts, size = [], 0
    while piece := answer.read1(_PIECE):
        parts.append(piece)
        size += len(piece)
        if size > bytes_max:
            raise Malformed(f"{place} is larger than {bytes_max} bytes; publish it again.")
        if time.monotonic() > deadline:
            raise TimeoutError("it stalls")
    if told is not None and size != told:
        raise ConnectionError(f"it was cut off after {size} of {told} bytes")
    answer.close()  # else the connection would still wait for the end of it
    return b"".join(parts)
