"""One worker: verifies a bundle, loads it, answers one request at a time over a socket, and ends when told or left.

It trusts nobody's word: the bundle is verified here, and the bytes that were hashed are the bytes that are loaded. It
ends when its server is gone (end of file, or the kernel's signal, see ``forking``) or talks nonsense.
"""

import contextlib
import hashlib
import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.bundle.golden import read_golden
from pipeline.bundle.policy import load_policy
from pipeline.bundle.served import verify_served
from pipeline.bundle.statement import bundle_id
from pipeline.bundle.verify import VerifiedBundle, load_channel
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError, NotAccepted
from pipeline.core.names import Format
from pipeline.core.tensors import Tensors
from pipeline.engines.base import Session
from pipeline.runtime.arena import Arena
from pipeline.runtime.frames import BadFrame, Failure, Frame, FrameReader, Kind, encode_failure, encode_frame
from pipeline.runtime.loading import OpenSession, load_ready, measure_baseline, run_in_slices
from pipeline.runtime.procfs import sample
from pipeline.runtime.requests import pack_answer, unpack_request
from pipeline.runtime.titles import set_title
from pipeline.runtime.worker_spec import ReadyFacts, WorkerSpec

EXIT_FAILED = 3  # a FAILED frame said why
EXIT_BAD_PEER = 4

_READ_BYTES = 1 << 18
_DONE = object()
_SCRUB_STEP_BYTES = 1 << 18  # a quarter of a millisecond: no request waits longer for a scrub


class _ServerGone(Exception):
    """The server closed its end, or died."""


def work(spec: WorkerSpec, connection: socket.socket, arena: Arena, open_session: OpenSession) -> int:
    """Be a worker until the server is gone; returns the process's exit code."""
    worker = _Worker(spec, connection, arena, open_session)
    try:
        return worker.live()
    except (_ServerGone, ConnectionError):
        return 0
    except BadFrame:
        return EXIT_BAD_PEER


@dataclass(frozen=True)
class _Loaded:
    """A session that passed its golden check."""

    session: Session
    facts: ReadyFacts


class _Worker:
    """The worker's loop and what it holds."""

    def __init__(self, spec: WorkerSpec, connection: socket.socket, arena: Arena, open_session: OpenSession) -> None:
        self._spec = spec
        self._term = spec.term
        self._connection = connection
        self._arena = arena
        self._open = open_session
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._scrub: Iterator[None] | None = None
        self._session: Session | None = None

    def live(self) -> int:
        """Go through a worker's life: verified, staged, loaded, answering."""
        set_title(self._spec.title(self._term))
        self._send(Kind.HELLO)
        try:
            began = time.perf_counter()
            bundle = verify(self._spec)
            staged_ms = 1000 * (time.perf_counter() - began)
            self._send(Kind.STAGED)
            if not self._spec.then_load:
                self._wait_for_load(bundle)
            loaded = self._load(bundle, staged_ms)
        except HotspareError as error:
            return self._give_up(Failure(type(error).__name__, str(error)))
        except MemoryError:
            return self._give_up(Failure("MemoryError", "The model does not fit into the worker's memory limit."))
        self._session = loaded.session
        self._send(Kind.READY, payload=json.dumps(asdict(loaded.facts)).encode())
        while True:
            self._obey(self._next_frame(), bundle)

    def _wait_for_load(self, bundle: VerifiedBundle) -> None:
        """Stay staged until the server wants the model loaded."""
        while (frame := self._next_frame()).kind is not Kind.LOAD:
            self._obey(frame, bundle)

    def _load(self, bundle: VerifiedBundle, staged_ms: float) -> _Loaded:
        began = time.perf_counter()
        session = load_ready(bundle, self._open_with_threads)
        load_ms = staged_ms + 1000 * (time.perf_counter() - began)
        baseline = measure_baseline(session, read_golden(bundle.files).inputs)
        seen = sample(os.getpid())
        facts = ReadyFacts(
            bundle_id=bundle.bundle_id,
            candidate=bundle.candidate,
            model=bundle.model,
            load_ms=load_ms,
            p50_ms=baseline.p50_ms,
            p99_ms=baseline.p99_ms,
            reshaped_ms=baseline.reshaped_ms,
            rss_bytes=seen.rss_bytes if seen else 0,
            pid=os.getpid(),
        )
        return _Loaded(session, facts)

    def _open_with_threads(self, model_format: Format, model: bytes, threads: int) -> Session:
        return self._open(model_format, model, self._spec.threads or threads)

    def _give_up(self, failure: Failure) -> int:
        self._send(Kind.FAILED, payload=encode_failure(failure))
        return EXIT_FAILED

    def _obey(self, frame: Frame, bundle: VerifiedBundle) -> None:
        if frame.kind is Kind.INFER:
            self._infer(frame)
        elif frame.kind is Kind.TERM:
            self._take_term(frame.term)
        elif frame.kind is Kind.SCRUB:
            self._scrub = self._scrubbing(bundle, frame.request_id)
        elif frame.kind is not Kind.LOAD:  # a second LOAD asks for what is done
            raise BadFrame(f"{frame.kind.name} is not for a worker")

    def _take_term(self, term: int) -> None:
        if term > self._term:
            self._term = term
            set_title(self._spec.title(term))

    def _infer(self, frame: Frame) -> None:
        inputs, slot = unpack_request(frame.payload, self._arena)
        if self._session is None or frame.term < self._term:
            why = "is not ready" if self._session is None else f"serves term {self._term} by now"
            self._refuse(frame, Failure("StaleTerm", f"The worker {why}; the request was of term {frame.term}."))
            return
        self._take_term(frame.term)
        try:
            payload = _answer(self._session, inputs, slot)
        except HotspareError as error:
            self._refuse(frame, Failure(type(error).__name__, str(error)))
        except MemoryError:
            self._refuse(frame, Failure("MemoryError", "The request does not fit into the worker's memory limit."))
        else:
            self._send(Kind.ANSWER, frame.term, frame.request_id, payload)

    def _refuse(self, frame: Frame, failure: Failure) -> None:
        self._send(Kind.ERROR, frame.term, frame.request_id, encode_failure(failure))

    def _scrubbing(self, bundle: VerifiedBundle, request_id: int) -> Iterator[None]:
        """Hash every file again, step by step, and tell whether together they still are the bundle."""
        digests = []
        for path, data in bundle.files.items():
            digest = hashlib.sha256()
            for start in range(0, len(data), _SCRUB_STEP_BYTES):
                digest.update(memoryview(data)[start : start + _SCRUB_STEP_BYTES])
                yield
            digests.append((path, digest.hexdigest()))
        same = bundle_id(tuple(digests)) == bundle.bundle_id
        sentence = "" if same else "The bytes that the engine was given are not those that were verified any more."
        self._send(Kind.SCRUBBED, self._term, request_id, encode_failure(Failure("" if same else "Tampered", sentence)))

    def _scrub_on(self) -> None:
        if self._scrub is not None and next(self._scrub, _DONE) is _DONE:
            self._scrub = None

    def _next_frame(self) -> Frame:
        self._scrub_on()  # one step a frame even under load, all of them in an idle moment
        while not self._frames:
            if self._scrub is not None and not _is_readable(self._connection):
                self._scrub_on()
                continue
            data = self._connection.recv(_READ_BYTES)
            if not data:
                raise _ServerGone
            self._frames.extend(self._reader.feed(data))
        return self._frames.popleft()

    def _send(self, kind: Kind, term: int = 0, request_id: int = 0, payload: bytes = b"") -> None:
        self._connection.sendall(encode_frame(kind, term, request_id, payload))


def _answer(session: Session, inputs: Tensors, slot: memoryview) -> bytes:
    began = time.perf_counter()
    outputs = run_in_slices(session, inputs)
    return pack_answer(outputs, 1000 * (time.perf_counter() - began), slot)


def _is_readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def rehearse(spec: WorkerSpec) -> None:
    """Do all of a worker's start but the engine, so that processes forked from here find every cache filled.

    What is wrong with the bundle is not told here: the worker will.
    """
    with contextlib.suppress(HotspareError):
        read_golden(verify(spec).files)


def verify(spec: WorkerSpec) -> VerifiedBundle:
    """Verify a worker's bundle under its policy and, where there is one, its channel; raises what verifying raises.

    Raises NotAccepted too when it is another bundle than the server serves: its answers would bear the wrong name.
    """
    bundle = _verified(spec)
    if spec.bundle_id not in (None, bundle.bundle_id):
        raise NotAccepted(
            f"Another bundle than is served lies there by now; move to it with `hotspare swap {spec.model}`: "
            f"{spec.bundle} holds {bundle.bundle_id}, and {spec.bundle_id} is served."
        )
    return bundle


def _verified(spec: WorkerSpec) -> VerifiedBundle:
    policy = load_policy(Path(spec.trust))
    now, path = utc_now(), Path(spec.bundle)
    place = Path(spec.channel) if spec.channel else policy.channels and policy.channels / spec.model
    if not place:
        return verify_served(path, policy, now)
    return verify_served(path, policy, now, load_channel(place, policy, now), spec.seat.role)
