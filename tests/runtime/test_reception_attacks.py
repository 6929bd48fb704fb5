"""Attacks on where requests come in: poison without end, and suspects that cost every arrival."""

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.core.names import Role
from pipeline.runtime import reception
from pipeline.runtime.journal import Journal
from pipeline.runtime.reception import Reception
from pipeline.runtime.request import Phase, RequestState
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind
from pipeline.runtime.settings import Settings


def receiving(flying: list[Any], flights: Any = None, batch_rows_max: int = 0) -> Reception:
    flights = flights or SimpleNamespace(suspected=flying, is_behind=lambda _most: False)
    watch: Any = SimpleNamespace(hedge_after=lambda: 1e9, shadow=lambda *_: None)
    settings = Settings(batch_rows_max=batch_rows_max)
    return Reception(flights, watch, Journal("tiny", lambda _record: None), settings, lambda: 0.0)


def suspect(*numbers: int) -> Any:
    return SimpleNamespace(parts=[row(number) for number in numbers], digests=())


@dataclass
class Sky:
    """Flights that end as they are told to; a taster answers, all others are lost to a deadline."""

    suspected: list[Any] = field(default_factory=list)
    flown: list[tuple[list[int], Phase]] = field(default_factory=list)
    has_taster: bool = True

    def is_behind(self, _most: int) -> bool:
        return False

    async def fly(self, state: RequestState, inputs: Any, *_: object) -> Answer | NotAnswered:
        self.flown.append((inputs["x"][:, 0].tolist(), state.phase))
        await asyncio.sleep(0)
        if state.phase is Phase.TASTING and self.has_taster:
            return Answer(inputs, "id", "candidate", Role.PRIMARY, 1, False)
        return NotAnswered(RefusalKind.DEADLINE, "too late")


def row(number: int) -> dict[str, Any]:
    return {"x": np.full((1, 1), number, np.int32)}


def test_poison_without_end_is_bounded_and_the_newest_is_known() -> None:
    desk = receiving([])
    for number in range(3000):
        desk._quarantine(row(number), "it ends every worker")
    assert len(desk._poison) <= 1024
    refused = desk._refusal(row(2999))
    assert refused is not None
    assert refused.kind is RefusalKind.POISON
    assert desk._refusal(row(0)) is None


def test_suspects_that_wait_are_not_digested_anew_for_every_arrival(monkeypatch: pytest.MonkeyPatch) -> None:
    digested = []
    digest = reception._digest
    monkeypatch.setattr(reception, "_digest", lambda inputs: digested.append(1) or digest(inputs))
    desk = receiving([suspect(number) for number in range(100)])
    likes = [desk._is_like_a_suspect([row(number)]) for number in (5, 50, 500)]
    assert likes == [True, True, False]
    assert len(digested) == 100 + 3


def test_a_lost_request_that_asks_the_same_as_a_suspect_is_told_apart_from_the_others() -> None:
    one = suspect(7)
    desk = receiving([one])
    desk._flights.by_id = {1: one, 2: suspect(7), 3: suspect(8), 5: suspect(9, 7)}
    assert desk.like_suspects([2, 3, 4, 5]) == {2, 5}
    desk._flights.suspected = []
    assert desk.like_suspects([2, 3, 5]) == set()


def test_a_suspect_whose_client_gave_up_sees_only_a_taster_until_one_has_answered_it() -> None:
    sky = Sky(has_taster=False)
    desk = receiving([], sky)
    desk.doubt(suspect(7))
    for _ in range(2):
        assert asyncio.run(desk.infer(row(7), 5)).kind is RefusalKind.DEADLINE  # type: ignore[union-attr]
    sky.has_taster = True
    assert isinstance(asyncio.run(desk.infer(row(7), 1000)), Answer)
    asyncio.run(desk.infer(row(7), 1000))
    assert [phase for _, phase in sky.flown] == [Phase.TASTING] * 3 + [Phase.RUNNING]


def test_doubts_without_end_are_bounded() -> None:
    desk = receiving([])
    for number in range(3000):
        desk.doubt(suspect(number))
    assert len(desk._doubted) <= 1024


class Unwalked(dict[str, None]):
    """Digests that may be looked up, and not gone through."""

    def __iter__(self) -> Any:
        raise AssertionError("an arrival went through all that is remembered")


def test_a_thousand_doubts_are_looked_up_and_not_gone_through_at_every_arrival() -> None:
    desk = receiving([suspect(5000)])
    for number in range(1000):
        desk.doubt(suspect(number))
    desk._doubted = Unwalked(desk._doubted)
    desk._flights.by_id = {1: suspect(7), 2: suspect(2000, 999), 3: suspect(2000)}
    assert [desk._is_like_a_suspect([row(number)]) for number in (0, 999, 5000, 1000)] == [True, True, True, False]
    assert desk.like_suspects([1, 2, 3]) == {1, 2}


def test_each_request_of_a_suspect_batch_is_known_alone_and_gets_into_no_other_batch() -> None:
    sky = Sky()
    desk = receiving([], sky, batch_rows_max=8)
    sky.suspected = [suspect(1, 7)]

    async def ask() -> None:
        await asyncio.gather(*(desk.infer(row(number), 1000) for number in (2, 7, 3)))

    asyncio.run(ask())
    assert sky.flown[0] == ([7], Phase.TASTING)
    assert ([2, 3], Phase.RUNNING) in sky.flown


def test_a_batch_that_was_given_up_while_it_was_suspected_is_tasted_one_by_one() -> None:
    sky = Sky()
    desk = receiving([], sky, batch_rows_max=8)
    fly = sky.fly

    async def suspected_first(state: RequestState, inputs: Any, rows: int, parts: Any) -> Answer | NotAnswered:
        if rows > 1:
            desk.doubt(SimpleNamespace(parts=parts, digests=()))  # type: ignore[arg-type]
        return await fly(state, inputs)

    sky.fly = suspected_first  # type: ignore[method-assign,assignment]

    async def ask() -> list[Any]:
        return await asyncio.gather(*(desk.infer(row(number), 1000) for number in (1, 7)))

    assert all(isinstance(one, Answer) for one in asyncio.run(ask()))
    assert sky.flown == [([1, 7], Phase.RUNNING), ([1], Phase.TASTING), ([7], Phase.TASTING)]
