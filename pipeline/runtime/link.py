"""One worker as the server sees it: requests in, reports out, over its socket, in the server's event loop."""

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from pipeline.core.printable import printable
from pipeline.core.schema import SchemaProblems, read
from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.frames import (
    BadFrame,
    Failure,
    Frame,
    FrameReader,
    Kind,
    decode_failure,
    decode_json,
    encode_frame,
)
from pipeline.runtime.keeper_client import Spawned
from pipeline.runtime.requests import pack_request, unpack_answer
from pipeline.runtime.worker_spec import ReadyFacts

OnScrubbed = Callable[[bool, str], None]

_NO_SLOT = memoryview(b"")
_SENTENCE_CHARS_MAX = 2000

__all__ = ["OnScrubbed", "ReadyFacts", "WorkerEvents", "WorkerLink"]


class WorkerEvents(Protocol):
    """Who is told what a worker does; never called again after ``kill`` or after ``on_lost``."""

    def on_staged(self) -> None:
        """Take note that the bundle is verified and the model not loaded yet."""

    def on_ready(self, facts: ReadyFacts) -> None:
        """Take note that the golden answers were right and requests are welcome."""

    def on_start_failed(self, sentence: str, error: str) -> None:
        """Take note why it can not get ready; the process ends, so ``on_lost`` follows."""

    def on_answer(
        self, request_id: int, outputs: Mapping[str, Array] | None, error: str | None, server_ms: float
    ) -> None:
        """Take outputs, or the sentence of an error; ``server_ms`` was spent in the engine (0 for an error)."""

    def on_lost(self) -> None:
        """Take note, once, that nothing more will come: the process ended, or talked nonsense and was killed."""


class WorkerLink(asyncio.Protocol):
    """The server's end of one worker; ``nonsense`` says what it talked of that, if it did: it was killed for it.

    Requests are answered in the order they were sent. All methods do nothing once the worker is lost or killed.
    """

    def __init__(self, spawned: Spawned, events: WorkerEvents) -> None:
        self.pid = spawned.pid
        self.nonsense: str | None = None
        self._spawned = spawned
        self._events = events
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._asked: dict[int, tuple[int, int | None]] = {}  # request id: term, start of its slot
        self._scrubs: list[OnScrubbed] = []
        self._told = 0  # the last of HELLO, STAGED, READY, FAILED
        self._is_over = False
        self._early: list[Callable[[], None]] | None = []  # what came before the link was in its caller's hands

    @classmethod
    async def open(cls, spawned: Spawned, events: WorkerEvents) -> "WorkerLink":
        """Begin to talk to a worker that was just started; its first words come when the caller has the link."""
        link, loop = cls(spawned, events), asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: link, sock=spawned.sock)
        loop.call_soon(link._listen)  # not yet: uvloop reads before it resumes whoever waits for us
        return link

    def _listen(self) -> None:
        early, self._early = self._early or [], None
        for happen in early:
            happen()

    @property
    def pending(self) -> int:
        """Return how many requests were sent and not answered."""
        return len(self._asked)

    @property
    def unsent_bytes(self) -> int:
        """Return how much the worker has not taken yet."""
        if self._transport is None or self._is_over:
            return 0
        return self._transport.get_write_buffer_size()

    def infer(self, request_id: int, term: int, inputs: Tensors) -> None:
        """Send a request; raises ValueError for tensors that cannot be sent and ids that are in use."""
        if self._is_over:
            return
        if request_id in self._asked:
            raise ValueError(f"request {request_id} is under way")
        payload, slot = pack_request(inputs, self._spawned.arena)
        self._send(Kind.INFER, term, request_id, payload)
        self._asked[request_id] = (term, slot)

    def load(self) -> None:
        """Make a staged worker get ready."""
        self._send(Kind.LOAD)

    def scrub(self, callback: OnScrubbed) -> None:
        """Have the loaded bytes hashed again; ``callback(is_as_verified, sentence)`` if the worker lives to tell."""
        self._scrubs.append(callback)
        self._send(Kind.SCRUB)

    def set_term(self, term: int) -> None:
        """Tell the term, for the process title; requests of earlier terms are refused from then on."""
        self._send(Kind.TERM, term)

    def kill(self) -> None:
        """End it at once, stopped or hung as it may be; no callback follows."""
        self._end()

    def _send(self, kind: Kind, term: int = 0, request_id: int = 0, payload: bytes = b"") -> None:
        if self._transport is None or self._is_over:
            return
        self._transport.write(encode_frame(kind, term, request_id, payload))

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are no subclass of it

    def data_received(self, data: bytes) -> None:
        """Take bytes; nonsense ends the worker, since nothing after it can be trusted."""
        if self._early is not None:
            self._early.append(functools.partial(self.data_received, data))
            return
        try:
            for frame in self._reader.feed(data):
                if self._is_over:
                    return
                self._take(frame)
        except BadFrame as error:
            self._lose(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the loss."""
        if self._early is not None:
            self._early.append(functools.partial(self.connection_lost, exc))
            return
        self._lose(None)

    def _lose(self, nonsense: str | None) -> None:
        if not self._is_over:
            self.nonsense = nonsense
            self._end()
            self._events.on_lost()

    def _end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._spawned.pidfd, signal.SIGKILL)
        if self._transport is not None:
            self._transport.abort()
        self._asked.clear()
        self._spawned.arena.close()
        os.close(self._spawned.lifeline)
        os.close(self._spawned.pidfd)

    def _take(self, frame: Frame) -> None:
        if frame.kind <= Kind.FAILED:
            if frame.kind <= self._told:  # a second READY would have its canaries forgotten
                raise BadFrame(f"{frame.kind.name} was said twice, or too late")
            self._told = frame.kind
        if frame.kind is Kind.ANSWER:
            self._take_answer(frame)
        elif frame.kind is Kind.ERROR:
            self._close_request(frame)
            self._events.on_answer(frame.request_id, None, _failure(frame.payload).sentence, 0.0)
        elif frame.kind is Kind.STAGED:
            self._events.on_staged()
        elif frame.kind is Kind.READY:
            self._events.on_ready(_facts(frame.payload))
        else:
            self._take_rare(frame)

    def _take_rare(self, frame: Frame) -> None:
        if frame.kind is Kind.FAILED:
            failure = _failure(frame.payload)
            self._events.on_start_failed(failure.sentence, failure.error)
        elif frame.kind is Kind.SCRUBBED and self._scrubs:
            sentence = _failure(frame.payload).sentence
            self._scrubs.pop(0)(not sentence, sentence)
        elif frame.kind is not Kind.HELLO:
            raise BadFrame(f"{frame.kind.name} was not asked for")

    def _take_answer(self, frame: Frame) -> None:
        term, start = self._asked.get(frame.request_id, (None, None))
        if term != frame.term:
            raise BadFrame(f"an answer to request {frame.request_id} of term {frame.term}, which was not asked")
        arena = self._spawned.arena
        slot = _NO_SLOT if start is None else arena.bytes_at(start, arena.slot_end(start))
        outputs, server_ms = unpack_answer(frame.payload, slot)
        self._close_request(frame)
        self._events.on_answer(frame.request_id, outputs, None, server_ms)

    def _close_request(self, frame: Frame) -> None:
        if frame.request_id not in self._asked:
            raise BadFrame(f"an answer to request {frame.request_id}, which was not asked")
        _, start = self._asked.pop(frame.request_id)
        if start is not None:
            self._spawned.arena.free(start)


def _failure(payload: bytes) -> Failure:
    """Read a failure; what a worker says gets into logs and pages, so it is printable and short."""
    told = decode_failure(payload)
    return Failure(printable(told.error[:_SENTENCE_CHARS_MAX]), printable(told.sentence[:_SENTENCE_CHARS_MAX]))


def _facts(payload: bytes) -> ReadyFacts:
    try:
        return read(ReadyFacts, decode_json(payload))
    except SchemaProblems as error:
        raise BadFrame("what a ready worker told is not complete") from error
