"""Shortages that a drill makes: how they begin, how they end."""

import contextlib
import multiprocessing
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.environment import SIGNING_KEY
from pipeline.core.errors import InternalError, Unreachable
from pipeline.drill.live import resources
from pipeline.drill.live.processes import until
from pipeline.drill.live.resources import Dependency, fill_disk, idle_connections, memory_group, tiny_disk

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file system or a group of its own")


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5.0):
        return True
    return False


def test_a_dependency_counts_who_asked_goes_away_and_comes_back_where_it_was():
    dependency = Dependency()
    assert answers(dependency.port)
    assert answers(dependency.port)
    dependency.go_away()
    assert dependency.asked == 2
    assert not answers(dependency.port)
    dependency.go_away()
    dependency.come_back()
    assert answers(dependency.port)
    assert dependency.url.endswith(str(dependency.port))
    dependency.go_away()
    assert dependency.asked == 3


@needs_root
def test_a_tiny_disk_fills_up_and_is_gone_afterwards(tmp_path):
    place = tmp_path / "state"
    with tiny_disk(place, kilobytes=64):
        filler = fill_disk(place)
        assert 0 < filler.stat().st_size <= 64 << 10
        with pytest.raises(OSError, match="No space"):
            (place / "more").write_bytes(b"x" * 5000)
        filler.unlink()
        (place / "more").write_bytes(b"x" * 5000)
        assert os.path.ismount(place)
    assert not os.path.ismount(place)


def test_a_disk_that_may_not_be_mounted_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "mount").write_text("#!/bin/sh\nexit 32\n")
    (tmp_path / "mount").chmod(0o755)
    with pytest.raises(Unreachable, match="needs root"), tiny_disk(tmp_path / "state"):
        pass


@needs_root
def test_a_memory_group_is_removed_even_after_an_exception():
    with pytest.raises(KeyboardInterrupt), memory_group(f"hotspare-test-{os.getpid()}") as group:
        assert group.is_dir()
        raise KeyboardInterrupt
    assert not group.exists()


@needs_root
def test_a_memory_group_that_somebody_is_in_is_said(monkeypatch):
    monkeypatch.setattr(resources, "_REMOVE_S", 0.0)
    with pytest.raises(InternalError, match="cannot be removed"), memory_group(f"hotspare-test-{os.getpid()}") as group:
        (group / "inner").mkdir()
    (group / "inner").rmdir()
    group.rmdir()


def test_idle_connections_are_open_until_the_end():
    with socket.create_server(("127.0.0.1", 0)) as server:
        with idle_connections(server.getsockname()[1], 20) as opened:
            assert opened == 20
            accepted = [server.accept()[0] for _ in range(20)]
        assert [one.recv(1) for one in accepted] == [b""] * 20
        for one in accepted:
            one.close()


def test_idle_connections_that_nobody_took_use_nothing_up():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InternalError, match="took no connection"), idle_connections(port, 20):
        pass


def test_a_drill_that_runs_out_of_descriptors_itself_has_used_up_nobody_elses():
    """Its own limit ended it long before the server's: the drill passed, and nothing had been tried."""

    def few(port: int) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with pytest.raises(InternalError, match="ulimit -n"), idle_connections(port, 300):
            pass

    with socket.create_server(("127.0.0.1", 0), backlog=300) as server:
        process = multiprocessing.get_context("fork").Process(target=few, args=(server.getsockname()[1],))
        process.start()
        process.join()
    assert process.exitcode == 0


def test_busy_processes_have_no_signing_key_and_end_with_a_drill_that_is_killed():
    code = (
        "import sys, time\n"
        "from pipeline.drill.live.processes import descendants\n"
        "from pipeline.drill.live.resources import busy_processes\n"
        "import os\n"
        "with busy_processes(1):\n"
        "    print(*descendants(os.getpid()), flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, SIGNING_KEY: "a secret"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as drill:
        busy = int(drill.stdout.readline())
        until("A busy process", lambda: b"while os.getppid" in Path(f"/proc/{busy}/cmdline").read_bytes())
        assert b"a secret" not in Path(f"/proc/{busy}/environ").read_bytes()
        drill.kill()
    until("The end of a busy process", lambda: not computes(busy))


def computes(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
