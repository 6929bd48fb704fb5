"""Kills for want of memory: which of those that the kernel counts can be a worker's own."""

import signal
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.names import Role
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.members import Component, Fault, Seat
from pipeline.runtime.oom import OomKills
from pipeline.runtime.settings import Settings
from pipeline.runtime.shadowing import Shadowing
from pipeline.runtime.watch import Watch

P = Seat(Role.PRIMARY)
COUNT = SimpleNamespace(kills=0)


@pytest.fixture
def oom() -> OomKills:
    COUNT.kills = 40  # of hours ago
    return OomKills(lambda: COUNT.kills)


def test_a_kill_of_this_moment_is_seen_even_if_a_look_came_between_it_and_the_news(oom: OomKills) -> None:
    COUNT.kills += 1
    oom.look()
    assert oom.take() == 1


def test_what_was_killed_long_before_is_none_of_a_workers(oom: OomKills) -> None:
    COUNT.kills += 3
    oom.look()
    oom.look()
    assert oom.take() == 0


def test_one_kill_is_one_workers(oom: OomKills) -> None:
    COUNT.kills += 2
    assert [oom.take(), oom.take(), oom.take()] == [2, 1, 0]
    oom.look()
    COUNT.kills += 1
    assert [oom.take(), oom.take()] == [1, 0]


def ended(exit_status: int | None) -> Evidence:
    ground: Any = SimpleNamespace(oom_kills=lambda: COUNT.kills, now_ms=lambda: 0.0)
    release: Any = SimpleNamespace(bundles={})
    flights: Any = None
    watch = Watch(release, Settings(), ground, flights, iter(()), Shadowing(None, 0.0))  # type: ignore[arg-type]
    COUNT.kills += 1
    return watch.ended(exit_status, 0, None)


@pytest.mark.parametrize("status", [signal.SIGTERM, signal.SIGSEGV, 9 << 8])
def test_who_ended_in_another_way_than_the_kernel_kills_did_not_die_of_it(status: int) -> None:
    diagnosis = diagnose(P, ended(status))
    assert diagnosis.fault is not Fault.OUT_OF_MEMORY
    assert diagnosis.component is not Component.RESOURCE


@pytest.mark.parametrize("status", [signal.SIGKILL, None])
def test_one_that_may_have_been_another_process_is_told_with_less_confidence(status: int | None) -> None:
    diagnosis = diagnose(P, ended(status))
    assert diagnosis.component is Component.RESOURCE
    assert diagnosis.confidence <= 0.8
    assert any("whole machine" in said for said in diagnosis.evidence)
