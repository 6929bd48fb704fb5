"""A follower of a depot, round by round: what it does, what it says, how long it waits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundle.channel import BundleRef, Channel
from pipeline.core.clock import from_text
from pipeline.core.errors import HotspareError, Refusal, Tampered, TrustPolicyError, Unreachable
from pipeline.delivery.staging import Staged
from pipeline.delivery.watching import Follower, Place, Progress, skipped, wait_after

ISSUED = "2026-06-01T12:00:00Z"
EVERY_S = 30.0


def channel(seq: int, epoch: int = 0) -> Channel:
    refs = BundleRef("a" * 64, 1), BundleRef("b" * 64, 1)
    return Channel(1, "tiny", "stable", epoch, seq, ISSUED, "2026-06-02T00:00:00Z", "2026-06-03T00:00:00Z", *refs)


@dataclass
class World:
    """A depot, a folder, a server and a clock; what is set to an error is raised."""

    offered: Channel | HotspareError = field(default_factory=lambda: channel(7))
    staged: Channel | None = None
    policy: HotspareError | None = None
    serves: Place | HotspareError = (0, 6)
    swap_fails: HotspareError | None = None
    swap_is_idle: bool = False
    swaps: int = 0
    at: datetime = datetime(2026, 6, 1, 12, 0, 5, tzinfo=UTC)
    said: list[Mapping[str, object]] = field(default_factory=list)

    def fetch(self) -> Staged:
        if isinstance(self.offered, HotspareError):
            raise self.offered
        was_current, self.staged = self.staged == self.offered, self.offered
        self.at += timedelta(seconds=1)
        return Staged(self.offered.epoch, self.offered.seq, 1000, 10, 2, was_current, from_text(ISSUED))

    def look(self) -> Channel | None:
        if self.policy is not None:
            raise self.policy
        return self.staged

    def place(self) -> Place:
        if isinstance(self.serves, HotspareError):
            raise self.serves
        return self.serves

    def swap(self) -> None:
        self.swaps += 1
        if self.swap_fails is not None:
            raise self.swap_fails
        self.at += timedelta(seconds=1)
        if self.staged is not None and not self.swap_is_idle:
            self.serves = (self.staged.epoch, self.staged.seq)

    def follower(self, with_server: bool = True) -> Follower:
        server = self if with_server else None
        return Follower("tiny", self.fetch, self.look, server, EVERY_S, lambda: self.at, lambda: 0.5, self.said.append)

    def events(self) -> list[object]:
        return [one["event"] for one in self.said]


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_release_is_staged_then_served_and_its_lag_is_told(world: World) -> None:
    world.offered = channel(9)
    progress, wait_s = world.follower().round(Progress())
    assert world.events() == ["staged", "swapped"]
    assert world.said[1]["lag_s"] == 7.0
    assert world.said[1]["versions_skipped"] == 2
    assert world.said[0]["bytes_moved"] == 10
    assert (progress.failures, wait_s) == (0, EVERY_S)


def test_a_release_that_is_served_already_is_told_once(world: World) -> None:
    world.staged, world.serves = channel(7), (0, 7)
    follower = world.follower()
    progress, _ = follower.round(Progress())
    for _ in range(3):
        progress, _ = follower.round(progress)
    assert (world.events(), world.swaps) == (["serving"], 0)


def test_a_swap_that_fails_is_asked_for_again_though_nothing_new_comes_and_the_depot_is_gone(world: World) -> None:
    world.swap_fails = Refusal("not now")
    follower = world.follower()
    progress, first_s = follower.round(Progress())
    world.offered = Unreachable("no network")
    progress, second_s = follower.round(progress)
    world.swap_fails = None
    progress, _ = follower.round(progress)
    assert (world.swaps, world.serves) == (3, (0, 7))
    assert world.events() == ["staged", "failed", "failed", "failed", "swapped", "failed"]
    assert [one.get("step") for one in world.said] == [None, "swap", "stage", "swap", None, "stage"]
    assert first_s < second_s < EVERY_S
    world.offered = channel(7)
    progress, wait_s = follower.round(progress)
    assert (world.events()[-1], progress.failures, wait_s) == ("well again", 0, EVERY_S)


def test_a_follower_that_was_killed_between_exchange_and_swap_is_made_good_by_the_next(world: World) -> None:
    world.staged = channel(7)
    world.follower().round(Progress())
    assert (world.events(), world.swaps) == (["swapped"], 1)


def test_a_dead_network_is_survived_for_ever_and_the_age_is_told_each_time(world: World) -> None:
    world.staged, world.serves, world.offered = channel(7), (0, 7), Unreachable("no network")
    follower, progress, waits = world.follower(), Progress(), []
    for _ in range(2000):
        progress, wait_s = follower.round(progress)
        world.at += timedelta(seconds=wait_s)
        waits.append(wait_s)
    failed = [one for one in world.said if one["event"] == "failed"]
    ages = [float(str(one["age_s"])) for one in failed]
    assert len(failed) == 2000
    assert ages == sorted(set(ages))
    assert waits == sorted(waits)
    assert waits[-1] == 4 * EVERY_S
    assert float(str(failed[-1]["expires_in_s"])) < 0 < float(str(failed[0]["expires_in_s"]))
    assert world.swaps == 0


@pytest.mark.parametrize("error", [Tampered("spoiled"), Unreachable("gone"), Refusal("no"), TrustPolicyError("odd")])
def test_whatever_a_step_raises_is_told_and_ends_nothing(world: World, error: HotspareError) -> None:
    world.offered = world.serves = error
    world.staged = channel(6)
    world.follower().round(Progress())
    assert [(one["step"], one["error"]) for one in world.said] == [
        ("stage", type(error).__name__),
        ("swap", type(error).__name__),
    ]


def test_a_policy_that_cannot_be_read_is_told_and_ends_nothing(world: World) -> None:
    world.policy = TrustPolicyError("odd")
    world.follower().round(Progress())
    assert world.events() == ["failed", "failed"]


def test_a_server_that_serves_something_newer_is_left_alone(world: World) -> None:
    world.serves = (1, 1)
    world.follower().round(Progress())
    assert (world.swaps, world.events()) == (0, ["staged", "serving"])


def test_a_server_that_takes_the_order_and_serves_another_folder_is_a_failure(world: World) -> None:
    world.swap_is_idle = True
    progress, _ = world.follower().round(Progress())
    assert progress.failures == 1
    assert "does it serve what is staged" in str(world.said[-1]["why"])


def test_without_a_server_it_only_stages(world: World) -> None:
    world.follower(with_server=False).round(Progress())
    assert world.events() == ["staged"]


def test_following_waits_after_each_round(world: World) -> None:
    class Enough(Exception):
        pass

    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise Enough

    with pytest.raises(Enough):
        world.follower().follow(wait)
    assert waits == [EVERY_S] * 3
    assert world.events() == ["watching", "staged", "swapped"]


@given(st.integers(0, 10**6), st.floats(0.01, 86_400), st.floats(0, 1))
def test_a_wait_is_never_nothing_nor_without_end(failures: int, every_s: float, draw: float) -> None:
    wait_s = wait_after(failures, every_s, draw)
    assert 0 < wait_s <= 6 * every_s
    assert wait_after(failures + 1, every_s, draw) >= wait_s or not failures


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [(None, (0, 9), 0), ((0, 7), (0, 8), 0), ((0, 7), (0, 9), 1), ((0, 7), (1, 3), 0), ((0, 9), (0, 9), 0)],
)
def test_versions_skipped_are_those_between(before: Place | None, after: Place, count: int) -> None:
    assert skipped(before, after) == count
