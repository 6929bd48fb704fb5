import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kept_service
import pytest
from sealed import Sealed

from pipeline.core.names import Role
from pipeline.core.schema import plain
from pipeline.runtime.members import Seat
from pipeline.runtime.procfs import sample
from pipeline.runtime.worker_spec import WorkerSpec

pytestmark = pytest.mark.slow

GONE_S = 30.0  # whatever dies, nothing of ours is left after that: two seconds on a calm machine


@dataclass
class Kept:
    """A service under its keeper, in a folder of its own: a process belongs to it if it stands in that folder."""

    folder: Path
    keeper: "subprocess.Popen[str]"
    connections: list[socket.socket] = field(default_factory=list)

    def ask(self, *words: Any) -> Any:
        """Ask on a new connection; one that a dying server drops is made again, as clients do."""
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(self.folder / "socket"))
                try:
                    connection.sendall(json.dumps(words).encode() + b"\n")
                    line = connection.makefile().readline()
                except ConnectionError:
                    continue
            if line:
                return json.loads(line)
        raise AssertionError("nobody answers")

    def order(self, *words: Any) -> None:
        """Say something that ends the server: no answer comes."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.folder / "socket"))
            connection.sendall(json.dumps(words).encode() + b"\n")
            connection.settimeout(GONE_S)
            assert connection.recv(1 << 16) in (b"", b"null\n", b'"left"\n')

    def spawn(self, **changes: Any) -> int:
        return int(self.ask("spawn", changes)[0])

    @property
    def server(self) -> int:
        return int(self.ask("who")[0])

    def family(self) -> dict[int, str]:
        """Return the processes of this service by id, with their titles."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (entry / "cwd").readlink() == self.folder:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().rstrip(b"\0").decode()
            except OSError:
                continue
        return {pid: title for pid, title in found.items() if title}  # a zombie has none

    def titles(self) -> list[str]:
        return sorted(" ".join(title.split()[:2]) for title in self.family().values())


def gone(pids: "dict[int, int] | list[int]", within_s: float = GONE_S) -> bool:
    """Wait for processes to end."""
    until = time.monotonic() + within_s
    for pidfd in pids.values() if isinstance(pids, dict) else map(os.pidfd_open, pids):
        ended = bool(select.select([pidfd], [], [], max(0.0, until - time.monotonic()))[0])
        os.close(pidfd)
        if not ended:
            return False
    return True


def watched(pids: list[int]) -> dict[int, int]:
    return {pid: os.pidfd_open(pid) for pid in pids}


@pytest.fixture
def keep(pair: Sealed, tmp_path: Path) -> Iterator[Callable[..., Kept]]:
    kept: list[Kept] = []

    def start(loop: str = "uvloop", **variables: str) -> Kept:
        spec = WorkerSpec(
            str(pair.backup), str(pair.trust), Seat(Role.BACKUP), 0, 1, True, "tiny", channel=str(pair.channel)
        )
        (tmp_path / "spec.json").write_text(json.dumps(plain(spec)))
        command = [sys.executable, kept_service.__file__, "spec.json", "socket", loop]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **variables}
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment)
        kept.append(Kept(tmp_path, process))
        until = time.monotonic() + 30
        while not (tmp_path / "socket").exists() and time.monotonic() < until:
            assert process.poll() is None, process.communicate()
            time.sleep(0.002)  # a file that appears is no descriptor to wait for
        return kept[-1]

    yield start
    for one in kept:
        while family := one.family():  # until no keeper is left that starts a server, and the other way round
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        one.keeper.communicate(timeout=GONE_S)


def test_what_is_forked_has_one_thread_and_no_file_that_a_library_opened() -> None:
    program = """
import os
from pipeline.runtime.forking import one_thread, preload, thread_count
one_thread()
preload()
print(thread_count(), sorted(set(map(int, os.listdir("/proc/self/fd"))) - {0, 1, 2})[1:])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1 []", done.stderr


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_keeper_server_and_worker_serve_and_end_by_sigterm(keep: Callable[..., Kept], loop: str) -> None:
    kept = keep(loop)
    worker = kept.spawn()
    assert isinstance(kept.ask("infer", worker), dict)
    assert kept.titles() == ["hotspare keeper", "hotspare server", "hotspare worker"]
    assert kept.family()[worker] == "hotspare worker tiny backup term=1"
    kept.keeper.send_signal(signal.SIGHUP)
    assert kept.ask("hups", 1) == 1
    kept.keeper.send_signal(signal.SIGTERM)
    assert kept.keeper.wait(GONE_S) == 0
    assert kept.family() == {}


def test_a_worker_has_no_descriptor_signal_or_group_of_others(keep: Callable[..., Kept]) -> None:
    kept = keep()
    kept.spawn()
    worker = kept.spawn()
    held = [os.readlink(f"/proc/{worker}/fd/{name}") for name in os.listdir(f"/proc/{worker}/fd")]  # noqa: PTH115, PTH208
    assert sum(link.startswith("socket:") for link in held) == 1
    assert sum("hotspare-arena" in link for link in held) == 2  # its own, and the mapping's copy of it
    assert sum(link.startswith("pipe:") for link in held) <= 2  # its lifeline, and this test's stderr
    assert os.getpgid(worker) == worker
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{worker}/status").read_text().splitlines() if ":\t" in line
    )
    assert int(status["SigBlk"], 16) == 0
    assert not int(status["SigCgt"], 16) & 1 << (signal.SIGTERM - 1)


def test_a_server_that_returns_gives_the_keeper_its_exit_code(keep: Callable[..., Kept]) -> None:
    kept = keep()
    kept.order("leave", 17)
    assert kept.keeper.wait(GONE_S) == 17
    assert kept.family() == {}


def test_an_error_of_ours_ends_the_service_and_a_bug_does_not(keep: Callable[..., Kept]) -> None:
    kept = keep()
    before = kept.server
    watch = watched([before])
    kept.order("crash")
    assert gone(watch)
    server, _, restarts, status = kept.ask("who")
    assert server != before
    assert restarts == 1
    assert os.waitstatus_to_exitcode(status) == 70
    kept.order("refuse")
    assert kept.keeper.wait(GONE_S) == 2
    told = kept.keeper.communicate()[1]
    assert "RuntimeError: a bug" in told
    assert told.endswith("This cannot be served.\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_server_is_replaced_and_takes_its_workers_along_stopped_and_hung_ones_too(
    keep: Callable[..., Kept], number: int
) -> None:
    kept = keep()
    stopped, hung, idle = kept.spawn(), kept.spawn(), kept.spawn()
    os.kill(stopped, signal.SIGSTOP)
    kept.ask("send", hung, kept_service.SPIN)
    server = kept.server
    watch = watched([server, stopped, hung, idle])
    os.kill(server, number)
    assert gone(watch)
    again, keeper, restarts, status = kept.ask("who")
    assert again != server
    assert (keeper, restarts) == (kept.keeper.pid, 1)
    assert os.WTERMSIG(status) == number
    assert isinstance(kept.ask("infer", kept.spawn()), dict)
    assert kept.titles() == ["hotspare keeper", "hotspare server", "hotspare worker"]


def test_a_dead_keeper_is_replaced_without_a_word_of_the_service_changing(keep: Callable[..., Kept]) -> None:
    kept = keep()
    server, worker, stopped = kept.server, kept.spawn(), kept.spawn()
    os.kill(stopped, signal.SIGSTOP)
    kept.keeper.kill()
    kept.keeper.wait()
    assert isinstance(kept.ask("infer", worker), dict)
    young = kept.spawn()  # takes the new keeper
    assert kept.server == server
    assert isinstance(kept.ask("infer", worker), dict)
    os.kill(worker, signal.SIGKILL)
    assert [worker, None] in kept.ask("exits", 1)  # only its dead parent could have told how
    os.kill(young, signal.SIGKILL)
    assert [young, signal.SIGKILL] in kept.ask("exits", 2)
    watch = watched([server, stopped])
    os.kill(server, signal.SIGKILL)
    assert gone(watch)
    assert kept.server != server
    assert kept.titles() == ["hotspare keeper", "hotspare server"]
    family = watched(list(kept.family()))
    os.kill(next(pid for pid, title in kept.family().items() if title == "hotspare keeper"), signal.SIGTERM)
    assert gone(family)


def test_systemd_is_told_of_a_keepers_successor_whose_servers_feed_its_watchdog(
    keep: Callable[..., Kept], tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        kept = keep(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="3000000")
        server, keeper = kept.server, kept.keeper.pid
        for _ in range(2):
            os.kill(keeper, signal.SIGKILL)
            word, _, pid = systemd.recv(100).decode().partition("=")
            keeper = int(pid)
            assert (word, kept.family()[keeper]) == ("MAINPID", "hotspare keeper")
        os.kill(server, signal.SIGKILL)
        assert kept.server != server
        assert kept.ask("watchdog") == 1.5


def test_when_keeper_and_server_die_together_nothing_is_left(keep: Callable[..., Kept]) -> None:
    kept = keep()
    stopped, hung, _ = kept.spawn(), kept.spawn(), kept.spawn()
    os.kill(stopped, signal.SIGSTOP)
    kept.ask("send", hung, kept_service.SPIN)
    server = kept.server
    family = watched(list(kept.family()))
    os.kill(kept.keeper.pid, signal.SIGSTOP)  # or it would start a new server in between
    os.kill(server, signal.SIGKILL)
    os.kill(kept.keeper.pid, signal.SIGKILL)
    assert len(family) == 5
    assert gone(family)
    assert kept.family() == {}


def test_a_stopped_keeper_is_passed_over_and_gives_way_when_it_wakes(keep: Callable[..., Kept]) -> None:
    kept = keep()
    server, worker = kept.server, kept.spawn()
    kept.keeper.send_signal(signal.SIGSTOP)
    young = kept.spawn()  # the wait for the stopped keeper, then a new one
    assert kept.server == server
    kept.keeper.send_signal(signal.SIGCONT)
    assert kept.keeper.wait(GONE_S) == 0
    assert isinstance(kept.ask("infer", worker), dict)
    assert isinstance(kept.ask("infer", young), dict)
    assert kept.titles() == ["hotspare keeper", "hotspare server", "hotspare worker", "hotspare worker"]


@pytest.mark.parametrize(("order", "ending"), [(kept_service.SEGFAULT, -signal.SIGSEGV), (kept_service.EXIT, 9)])
def test_how_a_worker_ended_is_told(keep: Callable[..., Kept], order: float, ending: int) -> None:
    kept = keep()
    worker = kept.spawn()
    assert kept.ask("infer", worker, order) == "lost"
    ((pid, status),) = kept.ask("exits", 1)
    assert (pid, os.waitstatus_to_exitcode(status)) == (worker, ending)
    assert sample(worker) is None  # reaped


def test_a_memory_limit_costs_the_request_not_the_worker(keep: Callable[..., Kept]) -> None:
    kept = keep()
    worker = kept.spawn(memory_mb=256)
    assert "memory limit" in kept.ask("infer", worker, kept_service.FILL)
    assert isinstance(kept.ask("infer", worker), dict)


def test_a_server_without_descriptors_says_so_and_loses_none(keep: Callable[..., Kept]) -> None:
    kept = keep()
    kept.spawn()
    before = kept.ask("descriptors")
    for spare in range(7):
        assert "open files" in kept.ask("starve", spare)
    until = time.monotonic() + GONE_S
    while (after := kept.ask("descriptors")) != before and time.monotonic() < until:
        pass  # the connection of the question before may not be closed yet
    assert after == before
    assert isinstance(kept.ask("infer", kept.spawn()), dict)
