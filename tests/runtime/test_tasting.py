"""The taster on a crew of a few lines: one suspect at a time, and none waits for a taster that cannot answer."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from flight_ground import Ground

from pipeline.core.names import Role
from pipeline.runtime import tasting
from pipeline.runtime.flights import Flights
from pipeline.runtime.members import Seat
from pipeline.runtime.procfs import ProcessSample
from pipeline.runtime.request import Available, Phase, first_request
from pipeline.runtime.service import Answer, RefusalKind
from pipeline.runtime.settings import Settings, VerifyMode
from pipeline.runtime.tasting import Taster

ROW = {"x": np.zeros((1, 2), np.float32)}


class Spare:
    """A spare worker that keeps what it is given."""

    def __init__(self, seat: Seat, incarnation: int) -> None:
        self.seat, self.incarnation = seat, incarnation
        self.pid = 1000 + incarnation
        self.sent_ms: dict[int, float] = {}
        self.usable = self.closing = False

    def infer(self, request_id: int, _term: int, _inputs: object, now_ms: float) -> None:
        self.sent_ms[request_id] = now_ms

    def look(self) -> ProcessSample | None:
        return None

    def kill(self) -> None:
        self.closing, self.usable = True, False


class Stage(Ground):
    def __init__(self) -> None:
        super().__init__()
        self.spares: list[Spare] = []
        self.flights = Flights(self, itertools.count(1))
        self.taster = Taster(self, self.flights, Settings())  # type: ignore[arg-type]

    def start(self, seat: Seat, incarnation: int, then_load: bool, as_member: bool) -> Spare:
        assert then_load
        assert not as_member
        self.spares.append(Spare(seat, incarnation))
        return self.spares[-1]

    def available(self) -> Available:
        return Available((), (), self.taster.is_free)

    def taste(self, flight: Any, role: Role | None) -> None:
        self.taster.taste(flight, role or Role.PRIMARY)

    def suspect(self, verify: VerifyMode = VerifyMode.OFF) -> Any:
        state = first_request(self.now_ms() + 5000, 1e9, verify)._replace(phase=Phase.TASTING)
        return asyncio.ensure_future(self.flights.fly(state, ROW, 1))

    def ready(self) -> Spare:
        self.spares[-1].usable = True
        self.taster.ready(self.spares[-1])  # type: ignore[arg-type]
        return self.spares[-1]

    def answer(self, spare: Spare) -> None:
        (request_id,) = spare.sent_ms
        spare.sent_ms.clear()
        self.taster.spoke()
        self.flights.good(request_id, ROW)

    def end(self, spare: Spare, suspect: bool) -> None:
        """Let the spare worker end, as the pair reports it."""
        spare.kill()
        ids = list(spare.sent_ms)
        self.taster.gone(spare)  # type: ignore[arg-type]
        self.flights.lost(ids, suspect)


def scene(play: Callable[[Stage], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Stage()
        await asyncio.wait_for(play(stage), 30)
        stage.taster.close()
        assert not stage.flights.flying
        assert all(spare.closing for spare in stage.spares)

    asyncio.run(run())


async def turns() -> None:
    for _ in range(4):
        await asyncio.sleep(0)


def kernel_says(monkeypatch: pytest.MonkeyPatch, state: str, cpu_ms: float = 0.0) -> None:
    monkeypatch.setattr(Spare, "look", lambda _spare: ProcessSample(state, cpu_ms, 0.0, 0))


def test_suspects_are_tried_one_at_a_time_on_one_taster() -> None:
    async def play(stage: Stage) -> None:
        asked = [stage.suspect() for _ in range(3)]
        await turns()
        spare = stage.ready()
        for _ in asked:
            assert len(spare.sent_ms) == 1
            stage.answer(spare)
            await turns()
        assert all(isinstance(one.result(), Answer) for one in asked)
        assert len(stage.spares) == 1

    scene(play)


def test_verify_pair_hears_one_taster_of_each_side() -> None:
    async def play(stage: Stage) -> None:
        asked, next_one = stage.suspect(VerifyMode.PAIR), stage.suspect()
        for _ in Role:
            await turns()
            stage.answer(stage.ready())
        assert isinstance(await asked, Answer)
        await turns()
        stage.answer(stage.ready())
        assert isinstance(await next_one, Answer)
        assert [spare.seat.role for spare in stage.spares] == [Role.PRIMARY, Role.BACKUP, Role.PRIMARY]

    scene(play)


def test_poison_ends_its_taster_and_the_next_suspect_gets_another() -> None:
    async def play(stage: Stage) -> None:
        poison, harmless = stage.suspect(), stage.suspect()
        await turns()
        stage.end(stage.ready(), suspect=True)
        await turns()
        assert poison.result().kind is RefusalKind.POISON
        stage.answer(stage.ready())
        assert isinstance(await harmless, Answer)
        assert len(stage.spares) == 2

    scene(play)


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_taster_that_somebody_killed_says_nothing_of_its_suspect(is_ready: bool) -> None:
    async def play(stage: Stage) -> None:
        asked = stage.suspect()
        await turns()
        stage.end(stage.ready() if is_ready else stage.spares[-1], suspect=False)
        await turns()
        assert len(stage.spares) == 2
        stage.answer(stage.ready())
        assert isinstance(await asked, Answer)

    scene(play)


def test_where_no_taster_can_be_started_the_suspect_is_refused_and_not_left_to_its_deadline() -> None:
    async def play(stage: Stage) -> None:
        asked, next_one = stage.suspect(), stage.suspect()
        await turns()
        while not next_one.done():
            stage.end(stage.spares[-1], suspect=False)
            await turns()
        assert asked.result().kind is next_one.result().kind is RefusalKind.UNAVAILABLE

    scene(play)


def test_a_suspect_at_which_a_taster_hangs_is_poison(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: Stage) -> None:
        asked = stage.suspect()
        await turns()
        spare = stage.ready()
        kernel_says(monkeypatch, "S")
        stage.taster.judge(0.0)
        stage.taster.judge(100.0)
        assert not asked.done()
        stage.taster.judge(200.0)
        assert (await asked).kind is RefusalKind.POISON
        assert spare.closing

    scene(play)


@pytest.mark.parametrize("is_ready", [True, False])
def test_a_stopped_taster_is_replaced(monkeypatch: pytest.MonkeyPatch, is_ready: bool) -> None:
    async def play(stage: Stage) -> None:
        asked = stage.suspect()
        await turns()
        if is_ready:
            stage.ready()
        kernel_says(monkeypatch, "T")
        stage.taster.judge(0.0)
        await turns()
        assert len(stage.spares) == 2
        assert stage.spares[0].closing
        stage.answer(stage.ready())
        assert isinstance(await asked, Answer)

    scene(play)


def test_a_taster_that_computes_what_nobody_waits_for_any_more_is_not_given_the_next_suspect() -> None:
    async def play(stage: Stage) -> None:
        asked = stage.suspect()
        await turns()
        stage.ready()
        asked.cancel()
        await turns()
        assert stage.spares[0].closing
        asked = stage.suspect()
        await turns()
        stage.answer(stage.ready())
        assert isinstance(await asked, Answer)

    scene(play)


def test_an_idle_taster_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasting, "IDLE_S", 0.01)

    async def play(stage: Stage) -> None:
        asked = stage.suspect()
        await turns()
        spare = stage.ready()
        stage.answer(spare)
        await asked
        while not spare.closing:
            await asyncio.sleep(0.005)

    scene(play)
