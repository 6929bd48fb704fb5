"""The service under clients, while its server and its keeper are killed: the port comes back, terms only grow."""

import os
import signal

import pytest
from serving import Clients, Service, Starter, until

from pipeline.core.names import Role

pytestmark = pytest.mark.slow

FAMILY = {"hotspare keeper": 1, "hotspare server": 1, "hotspare worker tiny": 2}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def is_whole(served: Service) -> bool:
    """Tell whether there is one keeper, one server, and the workers of one pair: no process more."""
    titles = list(served.family().values())
    counts = {title: sum(one.startswith(title) for one in titles) for title in FAMILY}
    return counts == FAMILY and len(titles) == sum(FAMILY.values())


def test_after_the_servers_death_the_port_comes_back_and_the_term_is_above_every_earlier_one(service: Starter) -> None:
    served = service()
    before = served.until_whole()["term"]
    old = [*served.of_title("hotspare worker"), served.server]
    with Clients(served, again=True) as clients:
        kill(served.server)
        served.wait_for_ready(2)
        served.until_whole()
        clients.more()
    clients.assert_nothing_lost()
    assert served.status()["term"] > before
    until(lambda: is_whole(served))
    assert not set(old) & set(served.family())
    assert served.stop() == 0


def test_without_its_keeper_the_service_goes_on_and_another_keeper_brings_a_killed_server_back(
    service: Starter,
) -> None:
    served = service()
    before = served.until_whole()["term"]
    with Clients(served) as clients:
        kill(served.process.pid)
        clients.more()
        until(lambda: is_whole(served) and served.keeper != served.process.pid)
        kill(served.pid(Role.BACKUP))
        served.until(lambda pair: pair["counters"]["restarts"])
        served.until_whole()
    clients.assert_nothing_lost()
    assert served.status()["term"] == before
    kill(served.server)
    served.wait_for_ready(2)
    assert served.until_whole()["term"] > before
    until(lambda: is_whole(served))
    os.kill(served.keeper, signal.SIGTERM)
    served.until_gone()


@pytest.mark.parametrize("is_taken_over", [False, True])
def test_a_keeper_and_then_its_server_killed_leave_exactly_one_of_each(service: Starter, is_taken_over: bool) -> None:
    served = service()
    server = served.server
    kill(served.process.pid)
    if is_taken_over:
        until(lambda: is_whole(served) and served.keeper != served.process.pid)
    else:
        until(lambda: len(served.family()) == 4 and served.process.poll() is not None)  # the next one is starting
    kill(server)
    served.wait_for_ready(2)
    served.until_whole()
    until(lambda: is_whole(served))
    os.kill(served.keeper, signal.SIGTERM)
    served.until_gone()


def test_where_keeper_and_server_are_killed_at_once_no_worker_outlives_them(service: Starter) -> None:
    served = service()
    served.until_whole()
    os.kill(served.pid(Role.PRIMARY), signal.SIGSTOP)  # nor a stopped one
    keeper, server = served.keeper, served.server
    os.kill(server, signal.SIGSTOP)  # at once: else it may start another keeper between the two
    kill(keeper)
    kill(server)
    served.until_gone()
