"""Processes, ports and waiting: small things that whoever starts servers needs."""

import http.client
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.core.errors import InternalError

_START_S = 30.0
_LOOK_EVERY_S = 0.02
_LOG_TOLD = 1500
_END_S = 5.0


def free_port() -> int:
    """Return a port of the loopback that nobody listens on, nor is given for a minute who asks for any port.

    The end of a connection stays behind at it: a server that names it may listen there, as servers allow themselves.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as there:
            listening.accept()[0].close()  # whose end closes first stays
            there.recv(1)
        return port


def get(port: int, path: str, timeout_s: float = 1.0) -> tuple[int, bytes]:
    """Return (status, body) of a GET; (0, b"") when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def until(what: str, holds: Callable[[], bool], within_s: float = _START_S, log: Path | None = None) -> None:
    """Wait for a state; raises InternalError, with the end of the log, when it does not come."""
    end = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > end:
            told = log.read_text()[-_LOG_TOLD:] if log is not None and log.exists() else "no log"
            raise InternalError(f"{what} did not happen within {within_s:g} s; its log ends: {told}")
        time.sleep(_LOOK_EVERY_S)


def standing_in(folder: Path) -> list[int]:
    """Return the processes whose working directory is ``folder``, zombies aside."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if stands_in(pid, folder)]


def stands_in(pid: int, folder: Path) -> bool:
    """Tell whether a process that runs, no zombie, has ``folder`` as its working directory."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == folder
    except OSError:  # it has just ended, or is not ours
        return False


def end_all(family: Callable[[], list[int]], within_s: float = _END_S) -> None:
    """Kill a family until nobody of it is left: one that dies may just have started another.

    Raises InternalError when somebody cannot be killed.
    """
    until_s = time.monotonic() + within_s
    while left := family():
        if time.monotonic() > until_s:
            raise InternalError(f"The processes {left} could not be ended; look what the kernel says of them.")
        for pid in left:
            end(pid)
        time.sleep(0.005)


def descendants(pid: int) -> list[int]:
    """Return the processes below one, deepest last."""
    found = [int(child) for task in _tasks(pid) for child in task.split()]
    return [*found, *(below for child in found for below in descendants(child))]


def _tasks(pid: int) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            yield path.read_text()
        except OSError:
            continue  # it has just ended


def end(pid: int) -> None:
    """Kill a process of ours if it still is there, a stopped one too."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
