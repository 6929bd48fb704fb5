import asyncio
import gc
import json
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import asdict

import numpy as np
import pytest
import uvloop
from standins import StandIn, stand_in

from pipeline.runtime.frames import Failure, Kind, encode_failure, encode_frame
from pipeline.runtime.link import WorkerLink
from pipeline.runtime.requests import pack_answer, unpack_request
from pipeline.runtime.worker_spec import ReadyFacts

FACTS = ReadyFacts("a" * 64, "dense.f32", "tiny", 12.0, 0.1, 0.2, 0.1, 1 << 20, 42)
BIG = np.ones((3, 40_000), np.float32)
ROW = {"x": np.ones((1, 4), np.float32)}


class Heard:
    """Writes down what a link tells."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self._more = asyncio.Event()

    def _note(self, *what: object) -> None:
        self.told.append(what)
        self._more.set()

    def on_staged(self) -> None:
        self._note("staged")

    def on_ready(self, facts: ReadyFacts) -> None:
        self._note("ready", facts)

    def on_start_failed(self, sentence: str, error: str) -> None:
        self._note("failed", sentence, error)

    def on_answer(self, request_id: int, outputs: object, error: str | None, server_ms: float) -> None:
        self._note("answer", request_id, outputs, error, server_ms)

    def on_lost(self) -> None:
        self._note("lost")

    async def until(self, count: int) -> list[tuple[object, ...]]:
        while len(self.told) < count:
            self._more.clear()
            await asyncio.wait_for(self._more.wait(), 30)
        return self.told


Body = Callable[[StandIn, WorkerLink, Heard], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def linked(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    """Run a test's body in an event loop of either kind, with a link and the worker's end of it."""

    def run(body: Body) -> None:
        async def inside() -> None:
            with stand_in() as worker:
                heard = Heard()
                link = await WorkerLink.open(worker.spawned, heard)
                await body(worker, link, heard)
                link.kill()

        (uvloop.run if request.param == "uvloop" else asyncio.run)(inside())

    return run


async def settled() -> None:
    """Let the loop handle whatever is ready, several times over."""
    for _ in range(20):
        await asyncio.sleep(0)


def died_of(worker: StandIn) -> int:
    return -worker.process.wait(timeout=30)


def test_a_workers_life_is_told_in_order(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        worker.say(Kind.HELLO)
        worker.say(Kind.STAGED)
        worker.say(Kind.READY, payload=json.dumps(asdict(FACTS)).encode())
        assert await heard.until(2) == [("staged",), ("ready", FACTS)]
        link.load()
        link.set_term(4)
        await asyncio.sleep(0)  # what is sent in one turn of the loop leaves at its end
        assert [worker.hear().kind for _ in range(2)] == [Kind.LOAD, Kind.TERM]
        worker.connection.close()
        assert (await heard.until(3))[2] == ("lost",)
        assert link.nonsense is None

    linked(body)


def test_a_frame_that_comes_byte_by_byte_is_one_frame(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        for byte in encode_frame(Kind.STAGED) + encode_frame(Kind.FAILED, payload=b'["A", "b"]'):
            worker.connection.sendall(bytes([byte]))
            await asyncio.sleep(0)
        assert await heard.until(2) == [("staged",), ("failed", "b", "A")]

    linked(body)


def test_large_tensors_go_there_and_back_and_the_slot_is_free_again(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        link.infer(7, 3, {"x": BIG})
        await asyncio.sleep(0)
        frame = worker.hear()
        assert (frame.kind, frame.term, frame.request_id) == (Kind.INFER, 3, 7)
        assert link.pending == 1
        inputs, slot = unpack_request(frame.payload, worker.arena())
        assert np.array_equal(inputs["x"], BIG)
        worker.say(Kind.ANSWER, 3, 7, pack_answer({"y": BIG * 2}, 1.5, slot))
        ((_, request_id, outputs, error, server_ms),) = await heard.until(1)
        assert (request_id, error, server_ms) == (7, None, 1.5)
        assert np.array_equal(outputs["y"], BIG * 2)  # type: ignore[index]
        assert link.pending == 0
        assert worker.spawned.arena.lent == 0

    linked(body)


def test_a_slot_stays_lent_until_the_answer_came(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        link.infer(1, 1, {"x": BIG})
        link.infer(2, 1, {"x": BIG})
        assert worker.spawned.arena.lent == 2
        worker.say(Kind.ERROR, 1, 1, encode_failure(Failure("DataError", "No.")))
        assert await heard.until(1) == [("answer", 1, None, "No.", 0.0)]
        assert worker.spawned.arena.lent == 1

    linked(body)


def test_a_request_under_way_is_not_sent_again(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        link.infer(1, 1, ROW)
        with pytest.raises(ValueError, match="under way"):
            link.infer(1, 1, ROW)

    linked(body)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\xff" * 64,
        encode_frame(Kind.ANSWER, 1, 99, bytes(32)),
        encode_frame(Kind.ANSWER, 2, 1, pack_answer({}, 0.0, memoryview(b""))),
        encode_frame(Kind.ANSWER, 1, 1, b"short"),
        encode_frame(Kind.ERROR, 1, 99, encode_failure(Failure("a", "b"))),
        encode_frame(Kind.ERROR, 1, 1, b"{}"),
        encode_frame(Kind.READY, payload=b"{}"),
        encode_frame(Kind.READY, payload=b"\xff"),
        encode_frame(Kind.INFER),
        encode_frame(Kind.SCRUBBED, payload=encode_failure(Failure("", ""))),
    ],
)
def test_nonsense_ends_the_worker_and_is_told_once(linked: Callable[[Body], None], nonsense: bytes) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        link.infer(1, 1, ROW)
        worker.connection.sendall(nonsense + encode_frame(Kind.STAGED))
        assert await heard.until(1) == [("lost",)]
        assert link.nonsense
        assert died_of(worker) == signal.SIGKILL
        await settled()
        assert heard.told == [("lost",)]
        link.infer(2, 1, ROW)  # does nothing
        link.kill()

    linked(body)


def test_a_half_frame_and_then_nothing_is_a_loss(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        worker.connection.sendall(encode_frame(Kind.STAGED)[:5])
        worker.connection.close()
        assert await heard.until(1) == [("lost",)]
        assert link.nonsense is None
        assert died_of(worker) == signal.SIGKILL

    linked(body)


def test_after_kill_nothing_is_told_even_of_frames_that_had_arrived(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        os.kill(worker.process.pid, signal.SIGSTOP)
        worker.say(Kind.STAGED)
        link.kill()
        await settled()
        assert heard.told == []
        assert died_of(worker) == signal.SIGKILL
        link.kill()
        link.infer(1, 1, ROW)

    linked(body)


def test_a_callback_that_kills_hears_no_further_frame_of_the_same_read(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        heard.on_staged = lambda: (heard._note("staged"), link.kill())  # type: ignore[method-assign,assignment]
        worker.connection.sendall(encode_frame(Kind.STAGED) * 3)
        await heard.until(1)
        await settled()
        assert heard.told == [("staged",)]

    linked(body)


def test_scrubs_are_answered_in_the_order_they_were_asked(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        results: list[tuple[object, ...]] = []
        done = asyncio.Event()
        link.scrub(lambda *told: results.append(("first", *told)))
        link.scrub(lambda *told: (results.append(("second", *told)), done.set()))
        worker.say(Kind.SCRUBBED, payload=encode_failure(Failure("", "")))
        worker.say(Kind.SCRUBBED, payload=encode_failure(Failure("Tampered", "Other bytes.")))
        await asyncio.wait_for(done.wait(), 30)
        assert results == [("first", True, ""), ("second", False, "Other bytes.")]

    linked(body)


def test_a_worker_that_reads_nothing_holds_up_neither_the_server_nor_its_end(linked: Callable[[Body], None]) -> None:
    async def body(worker: StandIn, link: WorkerLink, heard: Heard) -> None:
        wide = {"x": np.ones((1, 10_000), np.float32)}
        for request_id in range(100):  # 4 MB: more than the socket takes
            link.infer(request_id, 1, wide)
        assert link.pending == 100
        link.kill()
        assert died_of(worker) == signal.SIGKILL

    linked(body)


def test_links_leave_no_descriptor_behind() -> None:
    async def one() -> None:
        with stand_in() as worker:
            link = await WorkerLink.open(worker.spawned, Heard())
            link.infer(1, 1, {"x": BIG})
            link.kill()

    async def many() -> tuple[int, int]:
        await one()
        await settled()
        gc.collect()  # what other tests left is closed now, not meanwhile
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(5):
            await one()
        await settled()
        return before, len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before, after = asyncio.run(many())
    assert after == before
