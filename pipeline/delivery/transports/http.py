"""A depot behind HTTP(S), read only: no redirects, no proxies, no credentials."""

import http.client
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from pipeline.core.errors import UsageError
from pipeline.delivery.transports.web import ABSENT, WebServer, explained, host_of

_PLAIN = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class HttpDepot:
    """Any server of static files."""

    address: str
    base: str
    server: WebServer
    lanes: int = 4  # simple servers queue five connections at most; one more waits a second

    @classmethod
    def at(cls, address: str) -> "HttpDepot":
        """Return the depot at an http(s) address; raises UsageError for one that could leak or that is none."""
        try:
            parts = urlsplit(address)
            host = host_of(parts)
        except ValueError as error:  # which may quote user and password, as the address may hold them
            raise UsageError("That is no address of a depot; write http(s)://host[:port]/path.") from error
        if parts.username is not None or parts.password is not None:
            raise UsageError("A depot's address holds no user and password: they would show up in logs.")
        if not host or parts.query or parts.fragment or not _PLAIN.fullmatch(address):
            raise UsageError(f"{address} is no address of a depot; write http(s)://host[:port]/path.")
        server = WebServer.of(parts, is_tls=parts.scheme.lower() == "https")
        return cls(address.rstrip("/"), parts.path.rstrip("/"), server)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes, or None; an answer that stalls, or that is cut off, raises Unreachable."""
        place = f"{self.address}/{path}"
        answer = self.server.ask("GET", f"{self.base}/{path}", place, bytes_max)
        if answer.status in ABSENT:
            return None
        if answer.status != http.client.OK:
            raise explained(answer, place, "let nodes read the depot without credentials")
        return answer.body

    def close(self) -> None:
        """Close every connection."""
        self.server.close()
