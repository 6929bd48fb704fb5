"""The crew over real sockets: a worker's first words may wait there before anybody listens."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from standins import StandIn, stand_in

from pipeline.core.names import Role
from pipeline.runtime.crew import Crew, Worker
from pipeline.runtime.frames import Kind
from pipeline.runtime.link import WorkerLink
from pipeline.runtime.members import Seat

SEAT = Seat(Role.BACKUP)
RUNS: list[Callable[[Coroutine[Any, Any, None]], None]] = [asyncio.run, uvloop.run]


def crew_of(stand: StandIn, reports: Any) -> Crew:
    async def spawn(_spec: object) -> Any:
        return SimpleNamespace(pid=1, open=lambda events: WorkerLink.open(stand.spawned, events))

    machine: Any = SimpleNamespace(spawn=spawn)
    return Crew(machine, lambda *_: None, reports)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("run", RUNS)
def test_a_worker_that_was_staged_before_anybody_listened_can_be_told_to_load(run: Any) -> None:
    async def play(stand: StandIn) -> None:
        stand.say(Kind.HELLO)
        stand.say(Kind.STAGED)
        staged = asyncio.Event()

        def load(worker: Worker) -> None:
            crew.load(worker.seat, worker.incarnation)
            staged.set()

        crew = crew_of(stand, SimpleNamespace(staged=load))
        worker = crew.start(SEAT, 1, then_load=False)
        await asyncio.wait_for(staged.wait(), 30)
        await asyncio.sleep(0)  # what is sent in one turn of the loop leaves at its end
        stand.connection.settimeout(30)
        assert stand.hear().kind is Kind.LOAD
        worker.kill()

    with stand_in() as stand:
        run(play(stand))


def test_how_a_worker_ended_that_was_killed_for_nonsense_tells_nothing_so_its_request_may_be_to_blame() -> None:
    async def play(stand: StandIn) -> None:
        lost = asyncio.Event()
        told: list[object] = []
        reports = SimpleNamespace(
            lost=lambda _worker: lost.set(),
            settled=lambda _worker, status: told.append(("settled", status)),
            ended=lambda worker, status: told.append(("ended", status, worker.nonsense)),
        )
        crew = crew_of(stand, reports)
        crew.start(SEAT, 1, then_load=True)
        stand.connection.sendall(b"\xff" * 64)
        await asyncio.wait_for(lost.wait(), 30)
        crew.exited(1, signal.SIGKILL)
        assert told[0] == ("settled", None)
        assert told[1][:2] == ("ended", None)  # type: ignore[index]
        assert "announced" in told[1][2]  # type: ignore[index]

    with stand_in() as stand:
        asyncio.run(play(stand))


def test_a_worker_that_ended_before_its_start_was_told_is_known_by_how_it_ended() -> None:
    async def play(stand: StandIn) -> None:
        done = asyncio.Event()
        told: list[int | None] = []

        def settled(_worker: Worker, status: int | None) -> None:
            told.append(status)
            done.set()

        async def spawn(_spec: object) -> Any:
            await asyncio.sleep(0)
            crew.exited(1, signal.SIGSEGV)  # in one read with the word that it was forked
            stand.connection.close()
            return SimpleNamespace(pid=1, open=lambda events: WorkerLink.open(stand.spawned, events))

        reports: Any = SimpleNamespace(lost=lambda _: None, settled=settled, ended=lambda *_: None)
        crew = Crew(SimpleNamespace(spawn=spawn), lambda *_: None, reports)  # type: ignore[arg-type,return-value]
        crew.start(SEAT, 1, then_load=True)
        await asyncio.wait_for(done.wait(), 30)
        assert told == [signal.SIGSEGV]
        assert not crew._ended_early

    with stand_in() as stand:
        asyncio.run(play(stand))


def test_how_a_worker_ended_is_known_though_its_successor_was_born_before_that_was_told() -> None:
    async def play(stand: StandIn) -> None:
        settled, born = asyncio.Event(), asyncio.Event()
        ended: list[int | None] = []
        pids = iter((1, 2))

        async def opened(events: Any) -> Any:
            if crew.workers[SEAT].incarnation == 2:
                born.set()
                return SimpleNamespace()  # it says nothing
            return await WorkerLink.open(stand.spawned, events)

        async def spawn(_spec: object) -> Any:
            return SimpleNamespace(pid=next(pids), open=opened)

        reports: Any = SimpleNamespace(
            lost=lambda _: None,
            settled=lambda *_: settled.set(),
            ended=lambda _worker, status: ended.append(status),
        )
        crew = Crew(SimpleNamespace(spawn=spawn), lambda *_: None, reports)  # type: ignore[arg-type,return-value]
        crew.start(SEAT, 1, then_load=True)
        stand.connection.close()
        await asyncio.wait_for(settled.wait(), 30)  # its requests wait no longer for how it ended; the diagnosis does
        crew.start(SEAT, 2, then_load=True)
        await asyncio.wait_for(born.wait(), 30)
        crew.exited(1, signal.SIGKILL)
        assert ended == [signal.SIGKILL]

    with stand_in() as stand:
        asyncio.run(play(stand))
