"""A real server over what a real follower stages: without a network, past its channel's end, killed, under load."""

import os
import signal
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from following import HOUR, MINUTE, FollowedNode, following
from sealed import Sealed, sealed
from serving import Clients, Service, until

from pipeline.core.errors import Expired
from pipeline.core.names import Role

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def node(pair: Sealed, tmp_path: Path) -> Iterator[FollowedNode]:
    yield from following(pair, tmp_path)


def of_metrics(service: Service, name: str) -> float:
    lines = service.ask("GET", "/metrics").body.decode().splitlines()
    return float(next(line for line in lines if line.startswith(f'{name}{{model="tiny"}}')).split()[-1])


def is_refused(service: Service) -> bool:
    reply = service.infer()
    return (reply.status, reply.headers.get("hotspare-refused")) == (503, "expired")


def test_a_node_without_a_network_serves_up_to_its_channels_end_and_again_when_that_is_renewed(
    node: FollowedNode,
) -> None:
    node.publish(7, ends_in=HOUR, due_in=30 * MINUTE)
    node.stage()
    served = node.serve()
    before = served.until_whole()
    with node.without_network():
        follower = node.follow(served)
        assert follower.until_told("failed")["age_s"] >= 0
        os.kill(served.server, signal.SIGKILL)
        served.wait_for_ready(2)
        assert served.infer().status == 200
        node.tell_time(40 * MINUTE)
        served.until(lambda pair: pair["channel"]["is_due"])
        until(lambda: any("was to be renewed" in text for text in served.timeline()))
        assert served.infer().status == 200
        assert 39 * 60 < of_metrics(served, "hotspare_channel_age_seconds") < 60 * 60
        node.tell_time(2 * HOUR)
        until(lambda: is_refused(served))
        assert served.ask("GET", "/v2/health/ready").status == 503
        assert of_metrics(served, "hotspare_channel_expires_in_seconds") < 0
        assert [one["component"] for one in served.diagnoses()] == ["dependency"]
    pids = {served.pid(role) for role in Role}
    node.publish(9, ends_in=4 * HOUR)
    swapped = follower.until_told("swapped")
    assert (swapped["seq"], swapped["versions_skipped"]) == (9, 1)
    assert served.infer().status == 200
    assert served.ask("GET", "/v2/health/ready").status == 200
    assert {served.pid(role) for role in Role} == pids
    assert served.status()["version"] == before["version"]
    assert of_metrics(served, "hotspare_channel_seq") == 9


def test_a_node_that_starts_after_the_end_does_as_its_policy_says(node: FollowedNode) -> None:
    node.publish(7, ends_in=timedelta(0))
    node.trust("expired: serve-and-alarm\n")
    node.stage()
    served = node.serve()
    assert served.until_whole()["channel"]["policy"] == "serve-and-alarm"
    assert served.infer().status == 200
    os.kill(served.server, signal.SIGKILL)
    served.wait_for_ready(2)
    assert served.infer().status == 200
    os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
    served.until_whole()
    assert sum("serves on" in str(one.get("event")) for one in served.records()) == 2  # once a server
    assert of_metrics(served, "hotspare_channel_expired") == 1
    served.stop()
    node.trust("")
    refused = node.serve(wait=False)
    assert refused.process.wait(30) == Expired.exit_code


def test_between_exchange_and_swap_the_other_side_serves_and_the_swap_heals(node: FollowedNode) -> None:
    node.publish(7, packed=1)
    node.stage()
    served = node.serve()
    before = served.until_whole()
    with Clients(served) as clients:
        node.publish(8, packed=2)
        node.stage()
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda pair: pair["serving"] == "backup" and pair["counters"]["restarts"] >= 2)
        follower = node.follow(served)
        follower.until_told("swapped")
        after = served.until_whole()
        clients.more()
    clients.assert_nothing_lost()
    assert after["version"] != before["version"]
    assert "lies there by now" in str(served.records())


def test_a_new_release_in_the_depot_reaches_the_node_under_load_and_no_request_is_lost(node: FollowedNode) -> None:
    node.publish(7, packed=1)
    node.stage()
    served = node.serve()
    before = served.until_whole()
    with Clients(served) as clients:
        follower = node.follow(served)
        follower.until_told("serving")
        node.publish(8, packed=2)
        swapped = follower.until_told("swapped")
        clients.more()
    clients.assert_nothing_lost()
    assert served.status()["version"] != before["version"]
    assert 0 <= swapped["lag_s"] < 60
    assert swapped["versions_skipped"] == 0
