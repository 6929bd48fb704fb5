"""What the HTTP front can be told: limits with their units, tokens, names, TLS."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields

from pipeline.runtime.http.certificate import Certificate
from pipeline.runtime.http.tokens import Tokens


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the front."""

    head_bytes_max: int = 32 << 10  # request line and headers
    body_bytes_max: int = 16 << 20
    bodies_bytes_max: int = 256 << 20  # of all large bodies together; one that comes in one piece always has room
    unread_bytes_max: int = 256 << 20  # of all answers that wait for their clients to read them
    tensors_max: int = 64
    rows_max: int = 65_536  # a request holds its worker until it is computed, and others wait behind it
    pipelined_max: int = 64  # requests of one connection that wait for the one before them
    head_s_max: float = 10.0  # from the first byte of a request to the end of its headers
    body_s_max: float = 30.0  # from the end of the headers to the end of the body
    linger_s_max: float = 5.0  # after a refusal in the middle of a body: the rest of it is read and thrown away
    linger_bytes_max: int = 64 << 20
    idle_s_max: float = 75.0  # an open connection that asks nothing
    connections_max: int = 1000
    deadline_ms: float = 1000.0  # for a request that names none
    deadline_ms_max: float = 30_000.0  # whatever a request names


@dataclass(frozen=True)
class FrontSettings:
    """One front.

    ``hosts`` are the names, without port, that a Host header may hold beside loopback and plain IP addresses: a page of
    another site cannot reach the server under a name that it makes point here (DNS rebinding).
    """

    hosts: tuple[str, ...] = ()
    tokens: Tokens = field(default_factory=Tokens)
    tls: Certificate | None = None
    limits: Limits = field(default_factory=Limits)
    drain_s_max: float = 30.0  # at the end: time for requests in flight
    access_log: Callable[[Mapping[str, object]], None] | None = None  # a record a request, e.g. LogWriter.put

    def problems(self) -> Iterator[str]:
        """Yield what makes no sense."""
        for item in fields(self.limits):
            if getattr(self.limits, item.name) <= 0:
                yield f"{item.name} must be above 0."
