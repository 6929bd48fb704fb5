import ctypes
import itertools
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sealed import Sealed, tiny_rows

from pipeline.bundle.golden import read_golden
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.core.clock import utc_now
from pipeline.core.errors import DataError, GoldenMismatch, Malformed
from pipeline.core.names import Format, Role
from pipeline.core.schema import plain, read
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session, TensorSpec
from pipeline.engines.open import open_session
from pipeline.runtime.arena import Arena
from pipeline.runtime.frames import Frame, FrameReader, Kind, decode_failure, decode_json, encode_frame
from pipeline.runtime.loading import OpenSession, load_ready, measure_baseline
from pipeline.runtime.members import Seat
from pipeline.runtime.requests import pack_request, unpack_answer
from pipeline.runtime.worker import EXIT_BAD_PEER, EXIT_FAILED, rehearse, verify, work
from pipeline.runtime.worker_spec import ReadyFacts, WorkerSpec

NO_SLOT = memoryview(b"")


class Wrapped:
    """A real session with something of the test's own in front."""

    def __init__(self, inner: Session, before: Callable[[Tensors], None], after: Callable[[dict[str, Array]], None]):
        self._inner, self._before, self._after = inner, before, after
        self.inputs: tuple[TensorSpec, ...] = inner.inputs
        self.outputs: tuple[TensorSpec, ...] = inner.outputs

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self._before(inputs)
        outputs = self._inner.run(inputs)
        self._after(outputs)
        return outputs


def wrapped(
    before: Callable[[Tensors], None] = lambda _: None, after: Callable[[dict[str, Array]], None] = lambda _: None
) -> OpenSession:
    return lambda kind, model, threads: Wrapped(open_session(kind, model, threads), before, after)


class Hired:
    """A worker in a thread of this process, and the server's end of its socket."""

    def __init__(self, spec: WorkerSpec, opener: OpenSession) -> None:
        self.connection, theirs = socket.socketpair()
        self.connection.settimeout(20)
        self.arena = Arena.create(1 << 22)
        self.code: int | None = None
        self._reader = FrameReader()
        self._frames: list[Frame] = []
        self._ids = itertools.count(1)
        self._thread = threading.Thread(target=self._live, args=(spec, theirs, opener), daemon=True)
        self._thread.start()

    def _live(self, spec: WorkerSpec, connection: socket.socket, opener: OpenSession) -> None:
        with connection:
            self.code = work(spec, connection, Arena.open(self.arena.fd), opener)

    def hear(self) -> Frame:
        while not self._frames:
            data = self.connection.recv(1 << 16)
            assert data, "the worker ended"
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def hear_until(self, kind: Kind) -> Frame:
        while (frame := self.hear()).kind is not kind:
            assert frame.kind not in (Kind.FAILED, Kind.ERROR), decode_failure(frame.payload)
        return frame

    def say(self, kind: Kind, term: int = 0, request_id: int = 0, payload: bytes = b"") -> None:
        self.connection.sendall(encode_frame(kind, term, request_id, payload))

    def ask(self, inputs: Tensors, term: int = 5) -> int:
        request_id = next(self._ids)
        self.say(Kind.INFER, term, request_id, pack_request(inputs, self.arena)[0])
        return request_id

    def ended(self) -> int | None:
        self._thread.join(20)
        return self.code


@pytest.fixture
def spec(pair: Sealed) -> WorkerSpec:
    return WorkerSpec(
        bundle=str(pair.backup),
        trust=str(pair.trust),
        channel=str(pair.channel),
        seat=Seat(Role.BACKUP),
        incarnation=1,
        term=5,
        then_load=True,
        model="tiny",
    )


@pytest.fixture
def hire() -> Iterator[Callable[..., Hired]]:
    hired: list[Hired] = []

    def start(spec: WorkerSpec, opener: OpenSession = open_session) -> Hired:
        hired.append(Hired(spec, opener))
        return hired[-1]

    yield start
    for one in hired:
        one.connection.close()
        assert one.ended() is not None


def test_a_worker_verifies_stages_loads_and_answers_as_the_bundle_run_offline(
    spec: WorkerSpec, hire: Callable[..., Hired]
) -> None:
    worker = hire(spec)
    assert [worker.hear().kind, worker.hear().kind] == [Kind.HELLO, Kind.STAGED]
    ready = worker.hear()
    facts = read(ReadyFacts, decode_json(ready.payload))
    bundle = verify(spec)
    assert (facts.bundle_id, facts.candidate, facts.model) == (bundle.bundle_id, bundle.candidate, "tiny")
    assert 0 < facts.p50_ms <= facts.p99_ms
    assert facts.rss_bytes > 0
    rows = tiny_rows(7)
    request_id = worker.ask(rows)
    frame = worker.hear()
    assert (frame.kind, frame.term, frame.request_id) == (Kind.ANSWER, 5, request_id)
    outputs, engine_ms = unpack_answer(frame.payload, NO_SLOT)
    expected = load_ready(bundle).run(rows)
    assert {name: array.tobytes() for name, array in outputs.items()} == {n: a.tobytes() for n, a in expected.items()}
    assert engine_ms > 0
    worker.connection.close()
    assert worker.ended() == 0


def test_large_batches_come_back_through_the_arena(spec: WorkerSpec, hire: Callable[..., Hired]) -> None:
    worker = hire(spec)
    worker.hear_until(Kind.READY)
    rows = tiny_rows(30_000)
    worker.ask(rows)
    frame = worker.hear()
    assert len(frame.payload) < 1000
    outputs, _ = unpack_answer(frame.payload, worker.arena.bytes_at(0, worker.arena.slot_end(0)))
    expected = load_ready(verify(spec)).run(rows)
    assert all(np.array_equal(outputs[name], array) for name, array in expected.items())


def test_a_staged_worker_loads_when_told_and_ends_with_its_server(spec: WorkerSpec, hire: Callable[..., Hired]) -> None:
    opened: list[Format] = []

    def opener(kind: Format, model: bytes, threads: int) -> Session:
        opened.append(kind)
        return open_session(kind, model, threads)

    worker = hire(replace(spec, then_load=False), opener)
    worker.hear_until(Kind.STAGED)
    worker.ask(tiny_rows(1))
    refused = worker.hear()
    assert refused.kind is Kind.ERROR
    assert "not ready" in decode_failure(refused.payload).sentence
    assert opened == []
    worker.say(Kind.LOAD)
    worker.hear_until(Kind.READY)
    assert opened == [Format.TFLITE]
    other = hire(replace(spec, then_load=False))
    other.hear_until(Kind.STAGED)
    other.connection.close()
    assert other.ended() == 0


def test_a_tampered_bundle_fails_with_its_sentence_before_any_engine_sees_it(
    pair: Sealed, spec: WorkerSpec, hire: Callable[..., Hired], tmp_path: Path
) -> None:
    copy = shutil.copytree(pair.backup, tmp_path / "bundle")
    model = copy / "payload" / "model" / "model.tflite"
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)

    def opener(_kind: Format, _model: bytes, _threads: int) -> Session:
        raise AssertionError("an engine saw unverified bytes")

    worker = hire(replace(spec, bundle=str(copy)), opener)
    assert worker.hear().kind is Kind.HELLO
    failed = worker.hear()
    assert failed.kind is Kind.FAILED
    failure = decode_failure(failed.payload)
    assert failure.error == "Tampered"
    assert "model.tflite" in failure.sentence
    assert worker.ended() == EXIT_FAILED


def test_a_bundle_in_the_other_role_is_refused(pair: Sealed, spec: WorkerSpec, hire: Callable[..., Hired]) -> None:
    worker = hire(replace(spec, bundle=str(pair.primary)))
    assert worker.hear().kind is Kind.HELLO
    assert decode_failure(worker.hear().payload).error == "NotAccepted"


def test_a_model_that_answers_otherwise_than_when_packed_is_not_ready(
    spec: WorkerSpec, hire: Callable[..., Hired]
) -> None:
    def falsify(outputs: dict[str, Array]) -> None:
        for name, array in outputs.items():
            outputs[name] = array + 1

    worker = hire(spec, wrapped(after=falsify))
    assert [worker.hear().kind, worker.hear().kind] == [Kind.HELLO, Kind.STAGED]
    assert decode_failure(worker.hear().payload).error == "GoldenMismatch"
    assert worker.ended() == EXIT_FAILED


@pytest.mark.parametrize(
    ("trouble", "name"), [(DataError("No such row."), "DataError"), (MemoryError(), "MemoryError")]
)
def test_an_error_costs_one_answer_not_the_worker(
    spec: WorkerSpec, hire: Callable[..., Hired], trouble: Exception, name: str
) -> None:
    armed: list[Exception] = []

    def stumble(_inputs: Tensors) -> None:
        if armed:
            raise armed.pop()

    worker = hire(spec, wrapped(before=stumble))
    worker.hear_until(Kind.READY)
    armed.append(trouble)
    request_id = worker.ask(tiny_rows(1))
    frame = worker.hear()
    assert (frame.kind, frame.request_id) == (Kind.ERROR, request_id)
    failure = decode_failure(frame.payload)
    assert failure.error == name
    assert failure.sentence.endswith(".")
    worker.ask(tiny_rows(1))
    assert worker.hear().kind is Kind.ANSWER


def test_inputs_of_another_shape_are_an_error_of_the_request(spec: WorkerSpec, hire: Callable[..., Hired]) -> None:
    worker = hire(spec)
    worker.hear_until(Kind.READY)
    worker.ask({"features": np.zeros((1, 3), np.float32)})
    assert decode_failure(worker.hear().payload).error == "DataError"


def test_a_request_of_an_earlier_term_is_not_answered(spec: WorkerSpec, hire: Callable[..., Hired]) -> None:
    worker = hire(spec)
    worker.hear_until(Kind.READY)
    worker.say(Kind.TERM, 9)
    worker.ask(tiny_rows(1), term=8)
    refused = worker.hear()
    assert refused.kind is Kind.ERROR
    assert "term 9" in decode_failure(refused.payload).sentence
    worker.ask(tiny_rows(1), term=9)
    assert worker.hear().kind is Kind.ANSWER


def test_a_scrub_finds_one_changed_byte_of_what_the_engine_was_given(
    spec: WorkerSpec, hire: Callable[..., Hired]
) -> None:
    given: list[bytes] = []

    def opener(kind: Format, model: bytes, threads: int) -> Session:
        given.append(model)
        return open_session(kind, model, threads)

    worker = hire(spec, opener)
    worker.hear_until(Kind.READY)
    worker.say(Kind.SCRUB, request_id=3)
    clean = worker.hear_until(Kind.SCRUBBED)
    assert (clean.request_id, decode_failure(clean.payload).sentence) == (3, "")
    address = id(given[0]) + bytes.__basicsize__ - 1 + len(given[0]) // 2
    ctypes.memset(address, given[0][len(given[0]) // 2] ^ 1, 1)
    worker.say(Kind.SCRUB, request_id=4)
    found = decode_failure(worker.hear_until(Kind.SCRUBBED).payload)
    ctypes.memset(address, given[0][len(given[0]) // 2] ^ 1, 1)
    assert found.error == "Tampered"
    assert "not those that were verified" in found.sentence


def test_a_scrub_under_load_comes_to_its_end(spec: WorkerSpec, hire: Callable[..., Hired]) -> None:
    worker = hire(spec)
    worker.hear_until(Kind.READY)
    worker.say(Kind.SCRUB)
    for _ in range(60):
        worker.ask(tiny_rows(1))
    kinds = [worker.hear().kind for _ in range(61)]
    assert kinds.count(Kind.ANSWER) == 60
    assert kinds.count(Kind.SCRUBBED) == 1


@pytest.mark.parametrize("nonsense", [b"\xff" * 40, encode_frame(Kind.READY), encode_frame(Kind.INFER, 5, 1, b"x")])
def test_a_server_that_talks_nonsense_ends_the_worker(
    spec: WorkerSpec, hire: Callable[..., Hired], nonsense: bytes
) -> None:
    worker = hire(spec)
    worker.hear_until(Kind.READY)
    worker.connection.sendall(nonsense)
    assert worker.ended() == EXIT_BAD_PEER


def test_a_server_that_closes_ends_the_worker_even_while_it_starts(
    spec: WorkerSpec, hire: Callable[..., Hired]
) -> None:
    worker = hire(spec)
    worker.connection.close()
    assert worker.ended() == 0


def test_the_policys_channel_is_taken_where_none_is_named(pair: Sealed, spec: WorkerSpec, tmp_path: Path) -> None:
    shutil.copytree(pair.folder / "channels", tmp_path / "channels")
    trust = tmp_path / "trust.yaml"
    trust.write_text(pair.trust.read_text() + "\nchannels: channels\n")
    without = replace(spec, channel=None)
    assert verify(replace(without, trust=str(trust))).role is Role.BACKUP
    assert verify(without).role is None


def test_a_rehearsal_never_fails(spec: WorkerSpec) -> None:
    rehearse(spec)
    rehearse(replace(spec, bundle="/nowhere"))


def test_loading_checks_the_contract_and_the_golden_answers(pair: Sealed) -> None:
    bundle = verify_bundle(pair.backup, load_policy(pair.trust), utc_now())
    session = load_ready(bundle)
    baseline = measure_baseline(session, read_golden(bundle.files).inputs)
    assert 0 < baseline.p50_ms <= baseline.p99_ms
    io = replace(bundle.io, inputs=(replace(bundle.io.inputs[0], dtype="int32"),))
    with pytest.raises(Malformed, match="other tensors"):
        load_ready(replace(bundle, io=io))

    def falsify(outputs: dict[str, Array]) -> None:
        for name, array in outputs.items():
            outputs[name] = array * np.float32(np.nan)

    with pytest.raises(GoldenMismatch):
        load_ready(bundle, wrapped(after=falsify))


def test_specs_travel_as_json_and_name_the_process(spec: WorkerSpec) -> None:
    assert read(WorkerSpec, json.loads(json.dumps(plain(spec)))) == spec
    assert spec.title(6) == "hotspare worker tiny backup term=6"
