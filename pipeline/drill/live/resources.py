"""Real shortages for one run: a tiny disk, a memory limit, a dependency that goes away. Most need root."""

import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.environment import for_children
from pipeline.core.errors import FileAccess, InternalError, Unreachable

_CGROUPS = Path("/sys/fs/cgroup")
_REMOVE_S = 3.0
_OWN_FILES = 256
_BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@contextlib.contextmanager
def tiny_disk(folder: Path, kilobytes: int = 64) -> Iterator[None]:
    """Mount a small tmpfs at ``folder``; raises Unreachable where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False, env=for_children())
    if mounted.returncode != 0:
        raise Unreachable("A tmpfs cannot be mounted here (it needs root); the run with a full disk is left out.")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, env=for_children())


def fill_disk(folder: Path) -> Path:
    """Write until no space is left; returns the file that takes it."""
    filler = folder / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"\0" * 4096)
    return filler


@contextlib.contextmanager
def memory_group(name: str) -> Iterator[Path]:
    """Make a control group for processes to be put into; raises Unreachable where that is not allowed."""
    parent = _CGROUPS / "memory" if (_CGROUPS / "memory").is_dir() else _CGROUPS
    group = parent / name
    try:
        group.mkdir()
    except OSError as error:
        raise Unreachable("No memory group can be made here (it needs root); the OOM kill is left out.") from error
    try:
        yield group
    finally:
        _remove_group(group)


def _remove_group(group: Path) -> None:
    """Remove a group; the kernel keeps it a moment longer than the last process in it."""
    end_s = time.monotonic() + _REMOVE_S
    while True:
        try:
            group.rmdir()
        except OSError as error:
            if time.monotonic() > end_s:
                raise InternalError(f"{group} cannot be removed ({error.strerror}); see who is in it.") from error
            time.sleep(0.02)
        else:
            return


def limit_memory(group: Path, pid: int, megabytes: int) -> None:
    """Let a process take so much more than it has, then be killed by the kernel. Raises FileAccess."""
    names = ("memory.limit_in_bytes", "memory.max")
    limit = next((group / name for name in names if (group / name).exists()), None)
    if limit is None:
        raise FileAccess(f"{group} limits no memory; enable the memory controller.")
    limit.write_text(str(megabytes << 20))
    (group / "cgroup.procs").write_text(str(pid))


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep so many processes busy; they end with this one, however it ends."""
    command = [sys.executable, "-c", _BUSY, str(os.getpid())]
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            busy = subprocess.Popen(command, start_new_session=True, env=for_children())
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        yield


@contextlib.contextmanager
def idle_connections(port: int, most: int) -> Iterator[int]:
    """Open connections that ask nothing, and keep them; yields how many there are, fewer than ``most`` when refused.

    Raises InternalError where nobody takes one, or where this process's own limit ends it: nobody is short of any then.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + _OWN_FILES
    if soft < wanted:
        most_allowed = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most_allowed, hard))
    with contextlib.ExitStack() as stack:
        opened = 0
        try:
            for _ in range(most):
                connection = socket.create_connection(("127.0.0.1", port), timeout=1.0)
                stack.callback(connection.close)
                opened += 1
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise InternalError(f"The drill itself may open {opened} at most; raise its `ulimit -n`.") from error
        if not opened:
            raise InternalError(f"Port {port} took no connection; see whether the server still runs.")
        yield opened


class Dependency:
    """A port that something could need, such as a registry's; counts who asks, and can go away."""

    def __init__(self) -> None:
        self.asked = 0
        self._socket = _listening(0)
        self.port: int = self._socket.getsockname()[1]

    @property
    def url(self) -> str:
        """Return the address that a program would be configured with."""
        return f"http://127.0.0.1:{self.port}"

    def go_away(self) -> None:
        """Count who had connected, and close the port; one that is closed already stays so."""
        with contextlib.suppress(OSError):  # nobody more waits
            while True:
                self._socket.accept()[0].close()
                self.asked += 1
        self._socket.close()

    def come_back(self) -> None:
        """Listen on the same port again."""
        self._socket.close()
        self._socket = _listening(self.port)


def _listening(port: int) -> socket.socket:
    made = socket.create_server(("127.0.0.1", port))
    made.setblocking(False)
    return made


def is_root() -> bool:
    """Tell whether mounts and groups may be made."""
    return os.geteuid() == 0
