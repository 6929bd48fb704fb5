"""Whose fault a late answer is, with processes that a test makes up."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.core.names import Role
from pipeline.runtime import debts as room
from pipeline.runtime.debts import Debts
from pipeline.runtime.diagnosis import Evidence
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.procfs import ProcessSample
from pipeline.runtime.settings import Settings
from pipeline.runtime.shadowing import Shadowing
from pipeline.runtime.watch import Watch

SETTINGS = Settings()


class Late:
    """A worker that does not answer; ``cpu`` and ``waited`` are what each millisecond goes into."""

    facts = None

    def __init__(self, role: Role, *requests: int, state: str = "R", cpu: float = 1.0, waited: float = 0.0) -> None:
        self.seat = Seat(role)
        self.sent_ms = dict.fromkeys(requests, 0.0)
        self.last_answer_ms = 0.0
        self.state, self.cpu, self.waited = state, cpu, waited
        self.usable, self.closing = True, False
        self.suspects: set[int] = set()

    @property
    def load(self) -> int:
        return len(self.sent_ms)


class World:
    """The pair around debts: who is at fault is put away at once, and what it held is sent on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *workers: Late, same: bool = False) -> None:
        self.now = 0.0
        self.workers = workers
        self.found: list[tuple[Late, Fault, Evidence]] = []
        self.suspected: set[int] = set()
        self._same = same
        self.debts = Debts(SETTINGS, self, self)  # type: ignore[arg-type]
        monkeypatch.setattr(room, "look_at", self.look_at)

    def look_at(self, worker: Late) -> ProcessSample:
        return ProcessSample(worker.state, worker.cpu * self.now, worker.waited * self.now, 0)

    def now_ms(self) -> float:
        return self.now

    def fail(self, worker: Any, fault: Fault, evidence: Evidence) -> None:
        self.found.append((worker, fault, evidence))
        worker.usable = False
        self.suspected |= worker.suspects
        worker.sent_ms = {}

    def rows_of(self, _: int) -> int:
        return 1

    def is_same(self, *_: int) -> bool:
        return self._same

    def is_suspected(self, _: int) -> bool:
        return self._same and bool(self.suspected)

    def run(self, until_ms: float, lag_ms: float = 0.0) -> None:
        while self.now < until_ms:
            self.now += 10
            if lag_ms:
                self.debts.forgive(lag_ms)
            self.debts.judge([one for one in self.workers if one.usable], self.now)  # type: ignore[misc]

    @property
    def faults(self) -> list[tuple[Role, Fault]]:
        return [(worker.seat.role, fault) for worker, fault, _ in self.found]


def test_a_worker_that_owes_nothing_is_never_at_fault(monkeypatch) -> None:
    world = World(monkeypatch, Late(Role.PRIMARY))
    world.run(5000)
    assert world.found == []


@pytest.mark.parametrize(("state", "cpu"), [("R", 1.0), ("S", 0.0)])
def test_who_hangs_is_evicted_soon_and_its_oldest_request_is_the_suspect(monkeypatch, state, cpu) -> None:
    hung = Late(Role.PRIMARY, 7, 8, state=state, cpu=cpu)
    world = World(monkeypatch, hung, Late(Role.BACKUP))
    world.run(SETTINGS.evict_after_ms - 20)
    assert world.found == []
    world.run(SETTINGS.evict_after_ms + 30)
    assert world.faults == [(Role.PRIMARY, Fault.HANG)]
    assert hung.suspects == {7}


def test_a_stopped_worker_is_found_at_the_first_look(monkeypatch) -> None:
    world = World(monkeypatch, Late(Role.PRIMARY, 7, state="T", cpu=0.0))
    world.run(SETTINGS.hedge_max_ms + 10)
    assert world.faults == [(Role.PRIMARY, Fault.STOPPED)]


def test_who_waits_for_a_processor_is_not_evicted(monkeypatch) -> None:
    world = World(monkeypatch, Late(Role.PRIMARY, 7, cpu=0.02, waited=0.98))
    world.run(1500)
    assert world.found == []


def test_what_the_server_itself_was_late_is_nobodys_debt(monkeypatch) -> None:
    world = World(monkeypatch, Late(Role.PRIMARY, 7))
    world.run(1000, lag_ms=10)
    assert world.found == []


def test_two_that_are_stuck_with_one_request_are_both_evicted_at_once_for_it(monkeypatch) -> None:
    world = World(monkeypatch, Late(Role.PRIMARY, 7), Late(Role.BACKUP, 8), same=True)
    world.run(SETTINGS.evict_after_ms + 30)
    assert {role for role, _ in world.faults} == set(Role)
    assert all(evidence.same_request for *_, evidence in world.found)


def test_two_that_are_late_with_different_requests_get_a_second_for_the_machine_may_be_overloaded(monkeypatch) -> None:
    world = World(monkeypatch, Late(Role.PRIMARY, 7), Late(Role.BACKUP, 8))
    world.run(900)
    assert world.found == []
    world.run(1100)
    assert world.faults[0] == (Role.PRIMARY, Fault.HANG)
    assert world.found[0][2].other_side_ok is False


def test_an_answer_begins_a_new_debt(monkeypatch) -> None:
    worker = Late(Role.PRIMARY, 7, 8)
    world = World(monkeypatch, worker)
    world.run(100)
    del worker.sent_ms[7]
    worker.last_answer_ms = world.now
    world.run(230)
    assert world.found == []
    world.run(300)
    assert world.faults == [(Role.PRIMARY, Fault.HANG)]
    assert worker.suspects == {8}


def watched(monkeypatch: pytest.MonkeyPatch, worker: Late) -> tuple[World, Watch]:
    """Put a whole watch over one worker, whose canary is under way."""
    world = World(monkeypatch, worker)
    ground: Any = SimpleNamespace(
        term=1, now_ms=world.now_ms, oom_kills=lambda: 0, fail=world.fail, ready_workers=lambda: [worker]
    )
    release: Any = SimpleNamespace(bundles={})
    watch = Watch(release, SETTINGS, ground, world, itertools.count(9), Shadowing(None, 0.0))  # type: ignore[arg-type]
    watch._watched[worker] = SimpleNamespace(probe=(7, 0, 0.0))  # type: ignore[index,assignment]
    return world, watch


@pytest.mark.parametrize(("state", "fault"), [("T", Fault.STOPPED), ("S", Fault.HANG)])
def test_a_server_that_is_always_late_still_finds_who_owes_an_answer(monkeypatch, state: str, fault: Fault) -> None:
    world, watch = watched(monkeypatch, Late(Role.PRIMARY, 7, state=state, cpu=0.0))
    while world.now < 920 and not world.found:
        world.now += 40
        watch.tick()
    assert world.faults == [(Role.PRIMARY, fault)]


def test_what_came_while_the_server_was_late_may_wait_unread_and_is_not_held_against_anybody(monkeypatch) -> None:
    worker = Late(Role.PRIMARY, 7, state="S", cpu=0.0)
    world, watch = watched(monkeypatch, worker)
    while world.now < SETTINGS.evict_after_ms - 10:
        world.now += 10
        watch.tick()
    world.now += 500
    watch.tick()
    assert world.found == []


def test_who_had_waited_for_a_processor_and_ran_for_others_while_the_server_was_late_is_let_be(monkeypatch) -> None:
    worker = Late(Role.PRIMARY, 7, cpu=0.02, waited=0.98)
    world, watch = watched(monkeypatch, worker)
    while world.now < SETTINGS.evict_after_ms + 50:
        world.now += 10
        watch.tick()
    world.now += 500
    worker.cpu = 0.9  # its answer to 7 waits unread, and those to others
    watch.tick()
    assert world.found == []
