"""The service under clients, while its workers are killed, stopped, and come back: no request is lost."""

import contextlib
import os
import select
import signal

import numpy as np
import pytest
from serving import PATIENCE_S, ROWS, Clients, Starter, expected

from pipeline.core.names import Role
from pipeline.runtime.pair_nouns import other

pytestmark = pytest.mark.slow


def killed(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


def test_both_sides_answer_and_every_process_says_what_it_is(service: Starter) -> None:
    served = service("--failback", "manual")
    served.until_whole()
    reply = served.infer_by(Role.PRIMARY, ROWS[:3])
    np.testing.assert_allclose(reply.outputs, expected(ROWS[:3], Role.PRIMARY), atol=1e-6)
    titles = sorted(served.family().values())
    term = reply.term
    assert titles == [
        "hotspare keeper",
        "hotspare server",
        f"hotspare worker tiny backup term={term}",
        f"hotspare worker tiny primary term={term}",
    ]
    killed(served.pid(Role.PRIMARY))
    reply = served.infer(ROWS[:3])
    assert (reply.status, reply.role, reply.headers["hotspare-degraded"]) == (200, "backup", "true")
    np.testing.assert_allclose(reply.outputs, expected(ROWS[:3], Role.BACKUP), atol=1e-6)
    assert reply.term > term
    assert served.stop() == 0
    served.until_gone()


@pytest.mark.parametrize("role", list(Role))
def test_a_worker_that_is_killed_costs_no_request_and_the_primary_serves_again_after_clean_probes(
    service: Starter, role: Role
) -> None:
    served = service("--probe-every-ms", "20")
    before = served.until_whole()["term"]
    with Clients(served) as clients:
        victim = served.pid(role)
        killed(victim)
        served.until(lambda pair: pair["counters"]["restarts"])
        served.until_whole()
        clients.more()
    clients.assert_nothing_lost()
    pair = served.status()
    failovers = 1 if role is Role.PRIMARY else 0
    assert (pair["counters"]["failovers"], pair["counters"]["failbacks"]) == (failovers, failovers)
    assert pair["term"] == before + 2 * failovers
    assert served.pid(role) != victim
    told = [one for one in served.diagnoses() if one["fault"] == "killed"]
    assert [one["component"] for one in told] == ["process"]


def test_both_workers_killed_at_once_cost_no_request(service: Starter) -> None:
    served = service()
    served.until_whole()
    with Clients(served) as clients:
        for pid in [served.pid(role) for role in Role]:
            killed(pid)
        served.until(lambda pair: pair["counters"]["restarts"] == 2)
        served.until_whole(served.status()["serving"] or Role.PRIMARY)
        clients.more()
    clients.assert_nothing_lost()


@pytest.mark.parametrize("role", list(Role))
def test_a_worker_that_is_stopped_is_replaced_and_waking_it_up_changes_nothing(service: Starter, role: Role) -> None:
    served = service("--failback", "manual")
    served.until_whole()
    with Clients(served) as clients:
        victim = served.pid(role)
        process = os.pidfd_open(victim)
        killed(victim, signal.SIGSTOP)
        served.until(lambda pair: pair["counters"]["restarts"])
        assert select.select([process], [], [], PATIENCE_S)[0]
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGCONT)
        os.close(process)
        clients.more()
    clients.assert_nothing_lost()
    told = [one for one in served.diagnoses() if one["seat"]["role"] == role]
    assert [(one["fault"], one["component"]) for one in told] == [("stopped", "process")]
    assert served.status()["serving"] == other(role)
    served.infer_by(other(role))


@pytest.mark.parametrize("tier", ["warm", "cold"])
def test_a_standby_that_is_not_loaded_takes_over_when_the_primary_goes(service: Starter, tier: str) -> None:
    served = service("--tier", tier, "--probe-every-ms", "20")
    asleep = {"warm": "staged", "cold": "down"}[tier]
    served.until(lambda pair: [m["state"] for m in pair["members"]] == ["ready", asleep])
    assert len(served.of_title("hotspare worker")) == {"warm": 2, "cold": 1}[tier]
    with Clients(served) as clients:
        killed(served.pid(Role.PRIMARY))
        served.until(lambda pair: pair["counters"]["restarts"] and pair["serving"])
        served.until(
            lambda pair: pair["serving"] == "primary" and [m["state"] for m in pair["members"]] == ["ready", asleep]
        )
        clients.more()
    clients.assert_nothing_lost()


def test_of_two_replicas_one_may_go_without_a_failover(service: Starter) -> None:
    served = service("--replicas", "2")
    before = served.until_whole()["term"]
    with Clients(served) as clients:
        killed(served.pid(Role.PRIMARY, 1))
        served.until(lambda pair: pair["counters"]["restarts"])
        served.until_whole()
        clients.more()
    clients.assert_nothing_lost()
    assert served.status()["term"] == before
    assert {one.term for one in clients.answers} == {before}
    assert served.roles_of_terms()[before] == "primary"  # who gave each answer: assert_nothing_lost
    assert len(served.of_title("hotspare worker tiny")) == 4


def test_an_operator_switches_holds_and_releases(service: Starter) -> None:
    served = service(admin=True)
    before = served.until_whole()["term"]
    with Clients(served) as clients:
        assert served.admin("hold", seat="primary-0").status == 200
        served.until(lambda pair: pair["serving"] == "backup")
        refused = served.admin("hold", seat="backup-0")
        assert refused.status == 409
        assert "would end the service" in refused.json["error"]
        assert served.admin("hold", seat="primary-7").status == 400
        assert served.admin("release", seat="primary-0").status == 200
        served.until_whole(Role.BACKUP if served.status()["serving"] == "backup" else Role.PRIMARY)
        served.admin("switch", to="backup")
        served.admin("switch", to="primary")
        served.until(lambda pair: pair["serving"] == "primary")
        assert served.admin("switch", to="primary").status == 409
        clients.more()
    clients.assert_nothing_lost()
    assert served.status()["term"] > before
    assert served.ask("POST", "/admin/models/tiny/switch", {"to": "backup"}).status == 401
    assert served.status()["serving"] == "primary"


def test_a_worker_that_is_stopped_before_it_is_ready_is_replaced_within_seconds(service: Starter) -> None:
    served = service("--tier", "warm")
    served.until(lambda pair: [m["state"] for m in pair["members"]] == ["ready", "staged"])
    os.kill(served.pid(Role.BACKUP), signal.SIGSTOP)
    served.until(lambda pair: pair["counters"]["restarts"] == 1)
    served.until(lambda pair: [m["state"] for m in pair["members"]] == ["ready", "staged"])
    assert [one["fault"] for one in served.diagnoses()] == ["stopped"]
