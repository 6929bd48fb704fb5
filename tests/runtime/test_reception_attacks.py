"""Attacks on where requests come in: poison without end, and suspects that cost every arrival."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.runtime import reception
from pipeline.runtime.journal import Journal
from pipeline.runtime.reception import Reception
from pipeline.runtime.request import Phase
from pipeline.runtime.service import RefusalKind
from pipeline.runtime.settings import Settings


def receiving(flying: list[Any]) -> Reception:
    flights: Any = SimpleNamespace(suspected=flying, is_behind=lambda _most: False)
    watch: Any = SimpleNamespace()
    return Reception(flights, watch, Journal("tiny", lambda _record: None), Settings(), lambda: 0.0)


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
    state = SimpleNamespace(phase=Phase.TASTING)
    desk = receiving([SimpleNamespace(state=state, inputs=row(number), digest="") for number in range(100)])
    likes = [desk._is_like_a_suspect(row(number)) for number in (5, 50, 500)]
    assert likes == [True, True, False]
    assert len(digested) == 100 + 3


def test_a_lost_request_that_asks_the_same_as_a_suspect_is_told_apart_from_the_others() -> None:
    suspect = SimpleNamespace(state=SimpleNamespace(phase=Phase.TASTING), inputs=row(7), digest="")
    desk = receiving([suspect])
    desk._flights.by_id = {1: suspect, 2: SimpleNamespace(inputs=row(7)), 3: SimpleNamespace(inputs=row(8))}
    assert desk.like_suspects([2, 3, 4]) == {2}
    suspect.state.phase = Phase.RUNNING
    assert desk.like_suspects([2, 3]) == set()
