"""Engines that are slow at real requests, with processes that a test makes up."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.core.names import Role
from pipeline.runtime import pace as room
from pipeline.runtime.diagnosis import Evidence
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.pace import Paces
from pipeline.runtime.procfs import ProcessSample


class Engine:
    """A worker whose row takes 1 ms when it is sound; ``waits`` is the share of time it gets no processor."""

    def __init__(self, role: Role, waits: float = 0.0) -> None:
        self.seat = Seat(role)
        self.facts = SimpleNamespace(p50_ms=1.0, reshaped_ms=20.0)
        self.usable = True
        self.waits = waits


class Pair:
    """Two workers; every answer takes as long as its engine does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits: float = 0.0) -> None:
        self.now = 0.0
        self.blamed: list[tuple[Engine, Fault, Evidence]] = []
        self.primary, self.backup = Engine(Role.PRIMARY, waits), Engine(Role.BACKUP)
        self.paces = Paces(self)  # type: ignore[arg-type]
        for one in (self.primary, self.backup):
            self.paces.begin(one)  # type: ignore[arg-type]
        monkeypatch.setattr(room, "look_at", lambda one: ProcessSample("S", 0.0, one.waits * self.now, 0))

    def now_ms(self) -> float:
        return self.now

    def fail(self, worker: Any, fault: Fault, evidence: Evidence) -> None:
        self.blamed.append((worker, fault, evidence))

    def answers(self, worker: Engine, *times_ms: float, rows: int = 1) -> list[Fault]:
        for took_ms in times_ms:
            self.now += took_ms
            outputs = {"y": np.zeros((rows, 2), np.float32)}
            self.paces.answered(worker, outputs, took_ms)  # type: ignore[arg-type]
        return [fault for one, fault, _ in self.blamed if one is worker]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    pair = Pair(monkeypatch)
    pair.answers(pair.backup, 1, 1)
    pair.answers(pair.primary, 1, 1)
    return pair


def test_an_engine_that_is_slow_for_six_answers_is_blamed_and_the_sentence_tells_the_times(pair: Pair) -> None:
    assert pair.answers(pair.primary, *[50] * 5) == []
    assert pair.answers(pair.primary, 50) == [Fault.SLOW]
    evidence = pair.blamed[0][2]
    assert evidence.errors == ("5 answers in a row took its engine 50.0 ms each, where a row takes 1.0 ms",)
    assert evidence.other_side_ok


def test_one_quick_answer_between_slow_ones_begins_the_count_anew(pair: Pair) -> None:
    assert pair.answers(pair.primary, *[50] * 5, 1, *[50] * 5) == []


def test_short_shifts_need_more_answers_than_five(pair: Pair) -> None:
    assert pair.answers(pair.primary, *[10] * 10) == []
    assert pair.answers(pair.primary, 10) == [Fault.SLOW]


def test_a_shift_below_five_milliseconds_hurts_nobody(pair: Pair) -> None:
    assert pair.answers(pair.primary, *[5.9] * 100) == []


def test_an_engine_that_waits_for_a_processor_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(monkeypatch, waits=0.2)
    pair.answers(pair.backup, 1, 1)
    assert pair.answers(pair.primary, *[50] * 40) == []


def test_where_both_sides_are_slow_the_machine_is(pair: Pair) -> None:
    pair.answers(pair.backup, 50)
    assert pair.answers(pair.primary, *[50] * 20) == []


def test_alone_nobody_is_blamed_by_pace(pair: Pair) -> None:
    pair.paces.forget([pair.backup])  # type: ignore[list-item]
    assert pair.answers(pair.primary, *[50] * 20) == []


def test_many_rows_may_take_many_times_as_long(pair: Pair) -> None:
    assert pair.answers(pair.primary, *[250] * 10, rows=64) == []
    assert pair.answers(pair.primary, *[300] * 6, rows=64) == [Fault.SLOW]


def test_an_answer_after_another_number_of_rows_may_take_as_long_as_such_a_change_took_at_warm_up(pair: Pair) -> None:
    for _ in range(20):
        pair.answers(pair.primary, 70, rows=2)
        assert pair.answers(pair.primary, 70, rows=1) == []
    for _ in range(3):
        pair.answers(pair.primary, 170, rows=2)
        pair.answers(pair.primary, 170, rows=1)
    assert [fault for _, fault, _ in pair.blamed] == [Fault.SLOW]


def test_nonsense_in_place_of_an_answer_is_left_to_the_guards(pair: Pair) -> None:
    pair.paces.answered(pair.primary, {}, 50.0)  # type: ignore[arg-type]
    pair.paces.answered(pair.primary, {"y": np.float32(1.0)}, 50.0)  # type: ignore[arg-type, dict-item]
    assert pair.blamed == []
