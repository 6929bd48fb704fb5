"""The node that follows, for long: killed again and again, under load, on real time."""

import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from following import FollowedNode, following
from sealed import Sealed, sealed
from serving import Clients, until

from pipeline.core.clock import utc_now
from pipeline.core.names import Role
from pipeline.runtime.release import Places, Release, open_release

pytestmark = pytest.mark.long
RELEASES = 20
KILLS = 60


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def node(pair: Sealed, tmp_path: Path) -> Iterator[FollowedNode]:
    yield from following(pair, tmp_path)


def startable(node: FollowedNode) -> Release:
    """Open what is staged as a first start does: both bundles whole, and of one channel."""
    files = node.files
    return open_release(Places(files.primary, files.backup, files.trust, files.channel), utc_now(), strict=True)


def test_release_after_release_reaches_a_loaded_node_whose_follower_and_workers_are_killed(node: FollowedNode) -> None:
    draw = random.Random(6)
    node.publish(1, packed=1)
    node.stage()
    served = node.serve()
    served.until_whole()
    follower = node.follow(served)
    with Clients(served) as clients:
        for seq in range(2, RELEASES + 2):
            node.publish(seq, packed=seq % 5)
            if seq % 3 == 0:
                time.sleep(draw.uniform(0, 0.8))
                follower.kill()
                follower.start()
            if seq % 4 == 0:
                os.kill(served.pid(draw.choice(list(Role))), signal.SIGKILL)
            served.until(lambda pair, seq=seq: pair["channel"]["seq"] == seq)
            served.until_whole()
        clients.more()
    clients.assert_nothing_lost()
    lags = [one["lag_s"] for one in follower.told("swapped")]
    print(f"{len(clients.answers)} answers, 0 lost; {len(lags)} swaps told")
    print(f"lag {statistics.median(lags)} s, at most {max(lags)} s")


def test_a_follower_killed_at_any_moment_leaves_a_whole_release(node: FollowedNode) -> None:
    draw = random.Random(7)
    node.publish(1, packed=1)
    first = node.follow(every_s=60)
    takes_s = first.until_told("staged")["took_s"] + 0.1
    first.kill()
    seqs = []
    for seq in range(2, KILLS + 2):
        node.publish(seq, packed=seq)
        follower = node.follow(every_s=60)
        follower.until_told("watching", seq)
        time.sleep(draw.uniform(0, 1.5 * takes_s))  # it stages by now; the moment is chance
        follower.kill()
        release = startable(node)
        assert release.channel is not None
        seqs.append(release.channel.channel.seq)
    assert seqs == sorted(seqs)
    node.follow(every_s=0.05)
    until(lambda: startable(node).channel.channel.seq == KILLS + 1)  # type: ignore[union-attr]
    print(f"{KILLS} kills within {1.5 * takes_s:.1f} s; {len(set(seqs))} of {KILLS} releases were in place at the next")


def test_on_real_time_a_short_channel_ends_and_its_renewal_brings_the_answers_back(node: FollowedNode) -> None:
    node.publish(7, ends_in=timedelta(seconds=12), due_in=timedelta(seconds=8))
    node.stage()
    served = node.serve()
    served.until_whole()
    with node.without_network():
        follower = node.follow(served)
        follower.until_told("failed")
        assert served.infer().status == 200
        served.until(lambda pair: pair["channel"]["is_due"])
        assert served.infer().status == 200
        served.until(lambda pair: pair["channel"]["is_expired"])
        until(lambda: served.infer().status == 503)
    node.publish(8, ends_in=timedelta(minutes=5))
    follower.until_told("swapped")
    assert served.infer().status == 200
