"""The production pair on virtual time, past the end of the channel that it serves under."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.bundle.channel import Expiry
from pipeline.core.names import Role
from pipeline.drill.simulated import disk as simulated_disk
from pipeline.drill.simulated.clock import VirtualLoop
from pipeline.drill.simulated.disk import SEQ, SimulatedDisk, _channel
from pipeline.drill.simulated.models import known, policy
from pipeline.drill.simulated.service import SimulatedService
from pipeline.drill.simulated.surroundings import Surroundings
from pipeline.runtime.members import Component, MemberState, Seat
from pipeline.runtime.service import Answer, NotAnswered, PairStatus, RefusalKind
from pipeline.runtime.settings import Settings

ENDS_S = 3
LATER = "2026-06-01T13:00:00Z"


class Node:
    """A service of the simulated world whose channel ends three seconds after its start."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.world = Surroundings(loop, random.Random(1))
        self.offer(SEQ, "2026-06-01T12:16:43Z")
        self.service = SimulatedService(self.world, Settings(scrub_every_s=2), lambda: 1000 * loop.time())

    @property
    def disk(self) -> SimulatedDisk:
        return self.world.disk

    def offer(self, seq: int, not_after: str) -> None:
        self.disk._offered = _channel(seq, False, not_after)

    def go_on(self, seconds: float) -> None:
        self.loop.run_until_complete(self.world.pause(1000 * seconds))

    def ask(self) -> Answer | NotAnswered | None:
        replies: list[Answer | NotAnswered | None] = []
        self.service.ask(known().inputs[0], 500.0, replies.append)
        while not replies:
            self.go_on(0.01)
        return replies[0]

    def swap(self) -> None:
        self.loop.call_soon(self.service.read_again)

    def die(self) -> None:
        self.loop.call_soon(self.service.die)

    def status(self) -> PairStatus:
        found = self.service.status()
        assert found is not None
        return found

    def told(self, words: str) -> list[str]:
        return [one.text for one in self.service.moments if words in one.text]


@pytest.fixture
def node() -> Iterator[Node]:
    loop = VirtualLoop(random.Random(1))
    made = Node(loop)
    yield made
    made.service.close()
    loop.run_until_complete(made.world.pause(1))
    loop.close()


@pytest.fixture
def serving_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_disk, "policy", lambda: replace(policy(), expired=Expiry.SERVE_AND_ALARM))


def is_refused(outcome: object) -> bool:
    return isinstance(outcome, NotAnswered) and outcome.kind is RefusalKind.EXPIRED


def test_a_pair_answers_up_to_the_end_of_its_channel_and_not_after(node: Node) -> None:
    node.go_on(ENDS_S - 0.1)
    assert isinstance(node.ask(), Answer)
    node.go_on(0.2)
    assert is_refused(node.ask())
    status = node.status()
    assert status.channel is not None and status.channel.is_expired
    assert status.counters.refused == {RefusalKind.EXPIRED: 1}
    (event,) = [one for one in status.timeline if one.diagnosis is not None]
    assert event.diagnosis is not None and event.diagnosis.component is Component.DEPENDENCY
    assert [one.state for one in status.members] == [MemberState.READY, MemberState.READY]


def test_it_is_told_once_however_long_it_lasts(node: Node) -> None:
    node.go_on(60)
    assert len(node.told("has ended")) == 1
    assert node.told("on disk is refused") == []


def test_a_renewed_channel_is_taken_in_by_a_swap_with_the_same_workers_and_under_the_same_term(node: Node) -> None:
    node.go_on(ENDS_S + 1)
    before = node.status()
    node.offer(SEQ + 1, LATER)
    node.swap()
    node.go_on(0.1)
    after = node.status()
    assert isinstance(node.ask(), Answer)
    assert after.term == before.term
    assert [one.pid for one in after.members] == [one.pid for one in before.members]
    assert after.channel is not None and after.channel.seq == SEQ + 1
    assert node.disk.floor is not None and node.disk.floor.seq == SEQ + 1


def test_a_renewed_channel_is_noticed_without_a_swap(node: Node) -> None:
    node.go_on(ENDS_S + 1)
    node.offer(SEQ + 1, LATER)
    node.go_on(3)
    assert isinstance(node.ask(), Answer)
    assert len(node.told("was renewed")) == 1


def test_a_pair_that_lost_its_workers_while_nothing_might_be_loaded_gets_new_ones_with_the_renewed_channel(
    node: Node,
) -> None:
    node.go_on(ENDS_S + 1)
    for role in Role:
        process = node.service.machine.member(Seat(role))
        assert process is not None
        process.kill()
    node.go_on(20)
    assert node.status().serving is None
    node.offer(SEQ + 1, LATER)
    node.swap()
    node.go_on(2)
    assert isinstance(node.ask(), Answer)
    assert {one.state for one in node.status().members} == {MemberState.READY}


def test_a_policy_that_serves_on_goes_on_before_and_after_a_restart_and_says_so(node: Node, serving_on: None) -> None:
    node.go_on(ENDS_S + 1)
    assert isinstance(node.ask(), Answer)
    assert len(node.told("it serves on")) == 1
    node.die()
    node.go_on(2)
    assert isinstance(node.ask(), Answer)
    assert len(node.told("it serves on")) == 2
    status = node.status()
    assert status.channel is not None
    assert (status.channel.is_expired, status.channel.policy) == (True, Expiry.SERVE_AND_ALARM)


def test_a_worker_that_ends_is_replaced_where_the_policy_serves_on(node: Node, serving_on: None) -> None:
    node.go_on(ENDS_S + 1)
    process = node.service.machine.member(Seat(Role.PRIMARY))
    assert process is not None
    process.kill()
    node.go_on(10)
    assert {one.state for one in node.status().members} == {MemberState.READY}


def test_a_clock_that_is_set_right_ends_the_refusal(node: Node) -> None:
    node.go_on(ENDS_S + 1)
    assert is_refused(node.ask())
    node.disk.clock_back_ms = 3_600_000
    node.go_on(0.1)
    assert isinstance(node.ask(), Answer)
