"""What is put under load, as processes: our pair here, two plain workers behind HAProxy in ``balanced``."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.core.errors import InternalError
from pipeline.core.names import Role
from pipeline.drill.orders import OrderBook

HERE = Path(__file__).parent
_START_S = 30.0
_LOOK_EVERY_S = 0.02
_LOG_TOLD = 1500


@dataclass(frozen=True)
class PairFiles:
    """Two bundles of one model, and the policy that accepts them."""

    primary: Path
    backup: Path
    trust: Path

    def bundle(self, role: Role) -> Path:
        """Return the bundle of a role."""
        return self.primary if role is Role.PRIMARY else self.backup

    def copied(self, folder: Path) -> "PairFiles":
        """Copy everything to a folder of one run's own: it may be spoiled there, and its state is new."""
        made = PairFiles(folder / "primary", folder / "backup", folder / "trust.yaml")
        for role in Role:
            shutil.copytree(self.bundle(role), made.bundle(role))
        shutil.copyfile(self.trust, made.trust)
        return made


@dataclass(frozen=True)
class Seen:
    """Something that a system said; ``at_s`` is when it was read, by ``time.monotonic()``."""

    at_s: float
    facts: Mapping[str, Any]


class System(Protocol):
    """A pair under load."""

    name: str
    port: int
    files: PairFiles
    book: OrderBook

    def start(self) -> None:
        """Start; returns when both members answer. Raises InternalError when they do not."""
        ...

    def pid(self, role: Role) -> int:
        """Return the process of a role's worker."""
        ...

    def evictions(self) -> tuple[float, ...]:
        """Return when the primary was taken out of service, by ``time.monotonic()``, oldest first."""
        ...

    def stop(self) -> None:
        """End every process."""
        ...


def free_port() -> int:
    """Return a port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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


@dataclass
class Hotspare:
    """Our pair: the real server; where it ``takes_orders``, its sessions can be told to do wrong."""

    files: PairFiles
    folder: Path
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    takes_orders: bool = True
    name: str = "hotspare"

    def __post_init__(self) -> None:
        """Choose a port and begin a book of orders."""
        self.port = free_port()
        self.book = OrderBook(self.folder / "orders")
        self.seen: list[Seen] = []
        self.ready_s = 0.0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the server and wait for both members; its own log lines are kept with the time they came."""
        began = time.monotonic()
        faulty = ("-m", "pipeline.drill.faulty_server", "--orders", str(self.folder / "orders"))
        program = faulty if self.takes_orders else ("-m", "pipeline.cli", "serve")
        pair = ("--primary", self.files.primary, "--standby", self.files.backup, "--trust", self.files.trust)
        command = [sys.executable, *program, *map(str, pair), "--port", str(self.port), *self.options]
        environment = {**os.environ, **self.environment}
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        log = self.folder / "server.log"
        until("The pair's start", self.answers, log=log)
        self.ready_s = time.monotonic() - began
        until("The pair's redundancy", lambda: self.ready_members() == len(self.members()), log=log)

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with (self.folder / "server.log").open("a") as log:
            for line in process.stderr:
                now = time.monotonic()
                log.write(line)
                log.flush()
                if line.startswith("{"):
                    self.seen.append(Seen(now, json.loads(line)))

    def answers(self) -> bool:
        """Tell whether the server is ready; raises InternalError when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            log = (self.folder / "server.log").read_text()
            raise InternalError(f"The server ended by itself ({self._process.returncode}): {log[-600:]}")
        return get(self.port, "/v2/health/ready")[0] == 200

    def status(self) -> Mapping[str, Any]:
        """Return the pair's part of /status.json; empty while nobody answers."""
        code, body = get(self.port, "/status.json")
        if code != 200:
            return {}
        told = json.loads(body)
        pairs = told["pairs"] if isinstance(told, dict) else told
        pair: Mapping[str, Any] = pairs[0]
        return pair

    def members(self) -> Sequence[Mapping[str, Any]]:
        """Return what /status.json tells of the members."""
        return self.status().get("members", ())

    def ready_members(self) -> int:
        """Count the members that are ready."""
        return sum(member["state"] == "ready" for member in self.members())

    def pid(self, role: Role) -> int:
        """Return the process of a role's first worker."""
        for member in self.members():
            if role in str(member["seat"]):
                return int(member["pid"])
        raise InternalError(f"No {role} is up; read its log.")

    def evictions(self) -> tuple[float, ...]:
        """Return when the primary was found at fault."""
        return tuple(one.at_s for one in self.seen if one.facts.get("seat") == f"{Role.PRIMARY}-0")

    def answering_pid(self) -> int:
        """Return the process that answers HTTP: the one below the first that is no worker."""
        assert self._process is not None
        workers = {member["pid"] for member in self.members()}
        below = [pid for pid in descendants(self._process.pid) if pid not in workers]
        return below[0] if below else self._process.pid

    def stop(self) -> None:
        """End the server, in order if it can, and whatever it has left behind."""
        if self._process is None:
            return
        family = [*descendants(self._process.pid), self._process.pid]
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in family:
            end(pid)


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
