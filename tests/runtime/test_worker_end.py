"""When the server hears how a worker ended: its requests do not wait for that, its diagnosis does."""

import asyncio
import random
from collections.abc import Callable, Iterator

import pytest

from pipeline.core.names import Role
from pipeline.drill.simulated.clock import VirtualLoop
from pipeline.runtime.crew import EXIT_KNOWN_MS, EXIT_STATUS_MS, Worker
from pipeline.runtime.members import Seat

KILLED = 9


class Heard:
    """Writes down what it is told; whatever else a worker says is of no concern here."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int | None]] = []

    def lost(self, _: Worker) -> None:
        self.said.append(("lost", None))

    def settled(self, _: Worker, exit_status: int | None) -> None:
        self.said.append(("settled", exit_status))

    def ended(self, worker: Worker, exit_status: int | None) -> None:
        self.said.append((f"ended with {worker.held}", exit_status))


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    made = VirtualLoop(random.Random(0))
    asyncio.set_event_loop(made)
    yield made
    asyncio.set_event_loop(None)
    made.close()


def heard_of(loop: VirtualLoop, act: Callable[[Worker, VirtualLoop], None], for_ms: float = 2 * EXIT_KNOWN_MS):
    heard = Heard()
    worker = Worker(Seat(Role.PRIMARY), 1, heard, None)  # type: ignore[arg-type]  # no machine is asked
    worker.sent_ms = {7: 0.0, 8: 0.0}

    async def run() -> None:
        act(worker, loop)
        await asyncio.sleep(for_ms / 1000)

    loop.run_until_complete(run())
    return heard.said


def exits(worker: Worker) -> None:
    worker.has_exited, worker.exit_status = True, KILLED
    worker.end()


def test_requests_wait_ten_milliseconds_and_the_diagnosis_until_the_end_is_known(loop):
    def closes_and_is_reaped_late(worker: Worker, loop: VirtualLoop) -> None:
        worker.on_lost()
        loop.call_later(EXIT_STATUS_MS * 20 / 1000, exits, worker)

    said = heard_of(loop, closes_and_is_reaped_late)
    assert said == [("lost", None), ("settled", None), ("ended with 2", KILLED)]


def test_an_end_that_nobody_ever_tells_is_told_as_unknown(loop):
    said = heard_of(loop, lambda worker, _: worker.on_lost())
    assert said == [("lost", None), ("settled", None), ("ended with 2", None)]


def test_an_end_that_is_known_at_once_is_told_at_once_and_once(loop):
    def is_reaped_first(worker: Worker, _: VirtualLoop) -> None:
        exits(worker)
        exits(worker)

    said = heard_of(loop, is_reaped_first)
    assert said == [("lost", None), ("settled", KILLED), ("ended with 2", KILLED)]


def test_the_exit_status_known_before_the_connection_closes_is_used(loop):
    def closes_after(worker: Worker, _: VirtualLoop) -> None:
        worker.has_exited, worker.exit_status = True, KILLED
        worker.on_lost()

    assert heard_of(loop, closes_after)[1:] == [("settled", KILLED), ("ended with 2", KILLED)]
