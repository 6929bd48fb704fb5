"""Attacks on a running service: bundles exchanged under it, short deadlines, secrets, channels that end."""

import contextlib
import os
import resource
import shlex
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sealed import Sealed, tiny_channel, tiny_payload, write_channel
from serving import POISON, ROWS, Clients, Service, Starter, command, copied, until

from pipeline.bundle.channel import Revocations
from pipeline.core.errors import Expired
from pipeline.core.names import Format, Role
from pipeline.drill.orders import EVERYBODY, Order, OrderKind
from pipeline.seal.signing import seal_bundle

pytestmark = pytest.mark.slow


def test_a_bundle_exchanged_for_another_signed_one_is_not_loaded_at_a_restart(service: Starter) -> None:
    served = service(admin=True)
    before = served.until_whole()["version"]
    beside = served.files.folder / "beside"
    seal_bundle(beside, {**tiny_payload(Format.ONNX), "NOTES.md": b"Another one."}, served.files.key)
    with Clients(served) as clients:
        served.files.primary.rename(served.files.folder / "old")
        beside.rename(served.files.primary)
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda pair: pair["counters"]["restarts"] >= 2)
        clients.more()
        assert served.status()["serving"] == "backup"
        assert any("hotspare swap" in text for one in served.diagnoses() for text in one["evidence"])
        assert served.admin("swap").status == 200
        after = served.until_whole()["version"]
    clients.assert_nothing_lost()
    assert after != before


def test_requests_whose_clients_do_not_wait_fill_the_queue_as_well(service: Starter) -> None:
    served = service("--queue", "8", faulty=True)
    served.until_whole()
    assert served.orders is not None
    served.orders.give(EVERYBODY, Order(OrderKind.SLOW, ms=60, poison=POISON))
    slow = np.full_like(ROWS[:1], POISON)
    statuses: list[int] = []
    until(lambda: statuses.append(served.infer(slow, hotspare_timeout_ms="1").status) or 429 in statuses)
    assert set(statuses) <= {429, 503, 504}
    until(lambda: served.infer().status == 200)


def test_a_module_planted_where_the_service_stands_is_not_run_by_the_next_keeper(service: Starter) -> None:
    served = service()
    served.until_whole()
    marker = served.folder / "run"
    for name in ("orjson", "uvicorn", "onnxruntime", "selectors"):
        (served.folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')")
    os.kill(served.process.pid, signal.SIGKILL)
    until(lambda: served.of_title("hotspare keeper") and served.keeper != served.process.pid)
    os.kill(served.server, signal.SIGKILL)
    served.wait_for_ready(2)
    assert not marker.exists()
    os.kill(served.keeper, signal.SIGTERM)
    served.until_gone()


def test_a_client_that_opens_all_connections_it_can_does_not_keep_a_worker_from_starting(service: Starter) -> None:
    usual, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        served = service()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (usual, hard))
    served.until_whole()
    with contextlib.ExitStack() as open_ones:
        for _ in range(600):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", served.port), timeout=30))
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda pair: pair["counters"]["restarts"])
        served.until_whole()
    assert "limit of open files" not in served.log


def told_on_disk(served: Service) -> list[str]:
    return [text for one in served.diagnoses() if one["fault"] == "tampered" for text in one["evidence"]]


def test_a_bundle_that_the_channel_revokes_is_noticed_and_not_loaded_again(
    service: Starter, pair: Sealed, tmp_path: Path
) -> None:
    files = copied(pair, tmp_path / "files")
    served = service("--channel", str(files.channel), "--scrub-every-s", "1", files=files)
    primary = served.until_whole()["members"][0]["bundle_id"]
    write_channel(files.channel, tiny_channel(seq=8, revoked=Revocations(bundles=(primary,))), files.key)
    with Clients(served) as clients:
        served.until(lambda _: any("Revoked" in text for text in told_on_disk(served)))
        assert served.status()["serving"] == "primary"  # what runs is ended by the operator
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda now: now["serving"] == "backup" and now["counters"]["restarts"] >= 2)
        clients.more()
    clients.assert_nothing_lost()


def test_when_the_channel_has_ended_nothing_is_loaded_any_more_and_what_runs_serves_on(
    service: Starter, pair: Sealed, tmp_path: Path
) -> None:
    files = copied(pair, tmp_path / "files")
    served = service("--channel", str(files.channel), "--scrub-every-s", "1", files=files)
    served.until_whole()
    ended = tiny_channel(seq=8, refresh_by="2026-06-02T00:00:00Z", not_after="2026-06-03T00:00:00Z")
    write_channel(files.channel, ended, files.key)
    with Clients(served) as clients:
        served.until(lambda _: any("Expired" in text for text in told_on_disk(served)))
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda now: now["serving"] == "backup" and now["counters"]["restarts"] >= 2)
        clients.more()
    clients.assert_nothing_lost()
    os.kill(served.server, signal.SIGKILL)
    assert served.process.wait(30) == Expired.exit_code
    served.until_gone()


def test_a_channel_renewed_in_time_is_no_alarm(service: Starter, pair: Sealed, tmp_path: Path) -> None:
    files = copied(pair, tmp_path / "files")
    served = service("--channel", str(files.channel), "--scrub-every-s", "1", files=files)
    served.until_whole()
    write_channel(files.channel, tiny_channel(seq=8), files.key)
    os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
    served.until(lambda now: now["counters"]["restarts"])
    served.until_whole()
    assert told_on_disk(served) == []


@pytest.mark.parametrize(
    "variables",
    [
        {"HOTSPARE_TAKE_OVER": "abc"},
        {"HOTSPARE_TAKE_OVER": "0,1"},
        {"HOTSPARE_TAKE_OVER": "-1,-1,-1"},
        {"LISTEN_FDS": "99999999999"},
        {"LISTEN_FDS": "5"},
    ],
)
def test_variables_meant_for_keepers_and_systemd_are_not_believed(
    pair: Sealed, tmp_path: Path, variables: dict[str, str]
) -> None:
    files = copied(pair, tmp_path / "files")
    run = f"export LISTEN_PID=$$; exec {shlex.join(command(files, None, ()))}"
    environment = {**os.environ, **variables}
    done = subprocess.run(["bash", "-c", run], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in (0, 70)
    assert "Traceback" not in done.stderr
