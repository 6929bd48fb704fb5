"""HAProxy over two plain workers: what failover is without a pair that knows its model."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import Unreachable
from pipeline.core.names import Role
from pipeline.drill.live.launching import PairFiles, Seen
from pipeline.drill.live.processes import free_port, get, until
from pipeline.drill.orders import OrderBook

HERE = Path(__file__).parent
_STATS_EVERY_S = 0.01


@dataclass
class Balanced:
    """HAProxy over two plain workers of the same two bundles."""

    files: PairFiles
    folder: Path
    name: str = "haproxy"

    def __post_init__(self) -> None:
        """Choose ports and begin a book of orders."""
        self.port = free_port()
        self.book = OrderBook(self.folder / "orders")
        self._ports = {role: free_port() for role in Role}
        self._workers: dict[Role, subprocess.Popen[bytes]] = {}
        self._proxy: subprocess.Popen[bytes] | None = None
        self._socket = self.folder / "haproxy.sock"
        self._ended = threading.Event()
        self._states: list[Seen] = []

    def start(self) -> None:
        """Start the workers, then HAProxy, then the watch over what it thinks of the primary."""
        log = (self.folder / "server.log").open("ab")
        for role in Role:
            command = [sys.executable, str(HERE / "plain_worker.py"), str(self.files.bundle(role)), "--trust",
                       str(self.files.trust), "--port", str(self._ports[role]), "--role", role,
                       "--orders", str(self.folder / "orders")]  # fmt: skip
            self._workers[role] = subprocess.Popen(command, stderr=log)
        for role, port in self._ports.items():
            until(f"The start of the plain {role}", lambda port=port: get(port, "/v2/health/ready")[0] == 200)
        self._proxy = subprocess.Popen(
            [haproxy(), "-db", "-f", str(HERE / "haproxy.cfg")], env=self._names(), stderr=log
        )
        until("The start of HAProxy", lambda: self._state() == "UP")
        threading.Thread(target=self._watch, daemon=True).start()

    def _names(self) -> dict[str, str]:
        ports = {"PRIMARY_PORT": self._ports[Role.PRIMARY], "STANDBY_PORT": self._ports[Role.BACKUP]}
        named = {"HAPROXY_PORT": self.port, "HAPROXY_SOCKET": self._socket, **ports}
        return {**os.environ, **{name: str(value) for name, value in named.items()}}

    def _state(self) -> str:
        """Return what HAProxy thinks of the primary: UP, DOWN, UP 1/3 or the like."""
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(self._socket))
                asking.sendall(b"show stat\n")
                told = b"".join(iter(lambda: asking.recv(1 << 16), b"")).decode()
        except OSError:
            return ""
        rows = [line.split(",") for line in told.splitlines()]
        status = rows[0].index("status") if rows and "status" in rows[0] else None
        return next((row[status] for row in rows if row[1:2] == ["primary"]), "") if status is not None else ""

    def _watch(self) -> None:
        last = "UP"
        while not self._ended.wait(_STATS_EVERY_S):
            state = "DOWN" if self._state().startswith("DOWN") else "UP"
            if state != last:
                self._states.append(Seen(time.monotonic(), {"state": state}))
                last = state

    def pid(self, role: Role) -> int:
        """Return the process of a role's worker."""
        return self._workers[role].pid

    def evictions(self) -> tuple[float, ...]:
        """Return when HAProxy marked the primary down."""
        return tuple(one.at_s for one in self._states if one.facts["state"] == "DOWN")

    def stop(self) -> None:
        """Kill all three processes."""
        self._ended.set()
        for process in (self._proxy, *self._workers.values()):
            if process is not None:
                process.kill()
                process.wait()


def haproxy() -> str:
    """Return HAProxy's program; raises Unreachable when it is not installed."""
    path = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is None:
        raise Unreachable("HAProxy is not installed; install Debian's package haproxy, or leave it out with --alone.")
    return path
