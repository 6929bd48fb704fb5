"""uvicorn's HTTP protocol with what it leaves open: JSON errors, limits on heads, time and connections."""

import re
from asyncio import Transport
from asyncio.events import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from pipeline.runtime.http.reply import CLOSE, Reply, error_reply
from pipeline.runtime.http.settings import Limits
from pipeline.runtime.http.unread import PIECE_BYTES

WHOLE = "hotspare.whole"  # in the scope of a request that is here with its body: the cycle that answers it
TRANSPORT = "hotspare.transport"  # in the scope of every request: what its client is hung up on with
_OK = 200
_GOODBYE_S = 1.0
_UPGRADE = re.compile(rb"\nupgrade:", re.IGNORECASE)


class _NotTaken(Exception):
    """The parser is to stop at this request."""


class _StillArriving:
    """A request's transport while its body arrives: who closes it then only says the last word."""

    def __init__(self, connection: "Connection") -> None:
        self.write = connection.transport.write
        self.is_closing = connection.transport.is_closing
        self.close = connection.linger


class Connection(HttpToolsProtocol):
    """One client's connection.

    A timer runs while a request has begun to arrive and not ended, and before the first one; a request that comes in
    one piece, as nearly all do, costs no timer. Idle time between requests is uvicorn's keep-alive.
    """

    def __init__(self, limits: Limits, place_of: Any = None, **settings: Any) -> None:
        """``place_of`` is who had this client's place among the connections before."""
        super().__init__(**settings)
        self._limits = limits
        self._place_of = place_of
        self._timer: TimerHandle | None = None
        self._in_head = self._in_message = False
        self._head_bytes = 0
        self._lingers = False  # the last word is said
        self._thrown_away_max = limits.linger_bytes_max
        self._unread: tuple[TimerHandle, int] | None = None  # while the client does not read: how much it left

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start to wait for a request, or refuse one connection too many."""
        super().connection_made(transport)
        self.connections.discard(self._place_of)
        if self.scheme == "https":
            transport.set_write_buffer_limits(PIECE_BYTES)  # half a megabyte otherwise
        if len(self.connections) > self._limits.connections_max:
            self._refuse(error_reply(503, "Too many connections; try again.", ((b"retry-after", b"1"),)))
        else:
            self._arm(self._limits.head_s_max)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        self._reads_again()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, then see to the limits."""
        if self.transport.is_closing():
            return
        if self._lingers:
            self._throw_away(len(data))
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._in_message:
            self._head_bytes += len(data)
        if (self._in_head or not self._in_message) and (b"pgrade:" in data or b"PGRADE:" in data):
            data = _without_upgrade(data)
        super().data_received(data)
        if self._lingers:
            return
        if self.transport.is_closing():
            self._disarm()
        elif self._in_message:
            self._watch(len(data))
        elif self._answering() or self.timeout_keep_alive_task is not None:
            self._disarm()
        elif self._timer is None:  # line feeds before a request: they ended the keep-alive and began nothing
            self._arm(self._limits.head_s_max)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that says no more (a half-closed connection) what it has wholly asked, then close."""
        if self._in_message or not self._answering() or self.scheme == "https":
            return False
        self.cycle.keep_alive = False  # the newest request's: it is the last to be answered
        return True

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        self._in_head = self._in_message = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what a chunked body ends with (trailers) must not pass for one: proxies do not look at it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the body begins, whose time is counted anew; a queue of requests has an end."""
        if len(self.pipeline) >= self._limits.pipelined_max:  # each would cost a hundred times what it took to send
            raise _NotTaken
        if self.parser.should_upgrade():  # an offer that was not ignored: the body would be read as the next request
            raise _NotTaken
        self.scope[TRANSPORT] = self.transport  # type: ignore[literal-required]
        super().on_headers_complete()
        self._in_head = False
        self._head_bytes = 0
        self._disarm()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body; what comes without any (sizes of chunks, trailers) has the limit of a head."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole: nobody need wait for its body."""
        self._in_message = False
        self.cycle.transport = self.transport
        self.scope[WHOLE] = self.cycle  # type: ignore[literal-required]
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, unless nobody can tell where it begins: the body may come or not any more."""
        super().on_response_complete()
        if self._lingers:
            self._unset_keepalive_if_required()
        elif self.expect_100_continue and self._in_message and not self._in_head and self.cycle.response_complete:
            self.linger()

    def linger(self) -> None:
        """End after the last word: what still arrives is read and thrown away, for a while.

        The kernel answers with a reset what comes to a closed socket, and the reset would overtake the last word.
        """
        if self._lingers or self.transport.is_closing():
            return
        self._lingers = True
        self._disarm()
        self._timer = self.loop.call_later(self._limits.linger_s_max, self.transport.abort)
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _throw_away(self, received: int) -> None:
        self._thrown_away_max -= received
        if self._thrown_away_max < 0:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(error_reply(400, f"This is not HTTP/1.1: {msg}"))

    def shutdown(self) -> None:
        """End with the server, when all is answered; by TLS an idle client need not say goodbye, it may be asleep."""
        super().shutdown()
        if self.scheme == "https" and self.transport.is_closing():
            self.loop.call_later(_GOODBYE_S, self._leave)

    def _leave(self) -> None:
        if self.transport.get_write_buffer_size() == 0:
            self.transport.abort()
        else:
            self.loop.call_later(_GOODBYE_S, self._leave)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, but not for ever."""
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        """Go on: the client reads."""
        super().resume_writing()
        self._reads_again()

    def _await_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._unread = self.loop.call_later(self._limits.idle_s_max, self._still_unread), left

    def _still_unread(self) -> None:
        if self._unread is not None and self.transport.get_write_buffer_size() >= self._unread[1]:
            self.transport.abort()
        else:
            self._await_reading()

    def _reads_again(self) -> None:
        if self._unread is not None:
            self._unread[0].cancel()
            self._unread = None

    def timeout_keep_alive_handler(self) -> None:
        """End an idle connection, even one whose client does not read what it was sent."""
        self._end()

    def _watch(self, received: int) -> None:
        if self._in_head:
            self._head_bytes = self._head_bytes or received
        if self._head_bytes > self._limits.head_bytes_max:
            self._refuse(error_reply(431, f"The headers are longer than {self._limits.head_bytes_max} bytes."))
            return
        if not self._in_head and self.cycle.transport is self.transport:
            self.cycle.transport = _StillArriving(self)  # type: ignore[assignment]
        if self._timer is None:
            # The application's own limit on bodies answers 408 before this one, which covers bodies nobody reads.
            self._arm(self._limits.head_s_max + (0 if self._in_head else self._limits.body_s_max))

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _arm(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._overdue)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _overdue(self) -> None:
        self._timer = None
        if self._in_head and not self._answering() and not self.transport.is_closing():
            self._refuse(error_reply(408, "The request took too long to arrive."))
        else:
            self._end()

    def _end(self) -> None:
        if self.transport.get_write_buffer_size() > 0:
            self.transport.abort()
        else:
            self.transport.close()

    def _refuse(self, reply: Reply) -> None:
        """Answer what is arriving; where earlier requests wait for their answers, these come first, then the end."""
        if self._in_message and not self._in_head:
            if self.pipeline or self.cycle.response_started:
                self._end()
                return
        elif self._answering():
            self.cycle.keep_alive = False  # the newest whole request's
            self.flow.pause_reading()
            return
        lines = [b"%s: %s\r\n" % pair for pair in (*self.server_state.default_headers, *reply.headers)]
        length = b"content-length: %d\r\nconnection: close\r\n\r\n" % len(reply.body)
        self.transport.write(b"".join([STATUS_LINE[reply.status], *lines, length, reply.body]))
        if not self._in_message:
            self.transport.close()
            return
        if not self._in_head:
            self.cycle.disconnected = True  # who reads its body is not to answer it, too
            self.cycle.message_event.set()
        self.linger()


def answer_at_once(cycle: RequestResponseCycle, reply: Reply) -> bool:
    """Send a whole reply in one piece; False where it goes the long way, piece by piece: it is large, a client slow.

    uvicorn writes head and body one after the other: two packets, of which each wakes the client. Names and values of
    our own headers need no check. What ends the connection goes the long way, and so does the answer to HEAD, whose
    body a client would take for the answer to its next request.
    """
    if cycle.flow.write_paused or cycle.disconnected or cycle.response_started or not cycle.keep_alive:
        return False
    if len(reply.body) > PIECE_BYTES:
        return False
    if reply.status != _OK and (cycle.scope["method"] == "HEAD" or CLOSE in reply.headers):
        return False
    lines = [b"%s: %s\r\n" % pair for pair in (*cycle.default_headers, *reply.headers)]
    length = b"content-length: %d\r\n\r\n" % len(reply.body)
    cycle.transport.write(b"".join([STATUS_LINE[reply.status], *lines, length, reply.body]))
    cycle.waiting_for_100_continue = False
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    cycle.on_response()
    return True


def _without_upgrade(data: bytes) -> bytes:
    """Rename the header that offers another protocol: the parser would take the body for that protocol's.

    A server may ignore the offer (RFC 9110, 7.8); Java's own client makes it (h2c) with every first request.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\nignored:", head) + end + rest
