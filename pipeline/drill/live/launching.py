"""What is put under load, as processes; nothing of it is left when it is stopped."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

from pipeline.core.environment import for_children
from pipeline.core.errors import InternalError
from pipeline.core.names import Role
from pipeline.drill.live.processes import descendants, end_all, free_port, get, standing_in, stands_in, until
from pipeline.drill.orders import OrderBook
from pipeline.drill.told import record_in
from pipeline.runtime.members import MemberState, Tier

_BUSY_S = 0.25
_END_S = 5.0
_WAITS = {Tier.HOT: MemberState.READY, Tier.WARM: MemberState.STAGED, Tier.COLD: MemberState.DOWN}


@dataclass(frozen=True)
class PairFiles:
    """Two bundles of one model, the policy that accepts them and, where there is one, their channel's folder."""

    primary: Path
    backup: Path
    trust: Path
    channel: Path | None = None

    def bundle(self, role: Role) -> Path:
        """Return the bundle of a role."""
        return self.primary if role is Role.PRIMARY else self.backup

    def copied(self, folder: Path) -> "PairFiles":
        """Copy bundles and policy to a folder of one run's own: they may be spoiled there, and its state is new."""
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


@dataclass
class Hotspare:
    """Our pair: the real server; where it ``takes_orders``, its sessions can be told to do wrong.

    Its processes stand in ``folder / "run"``: whatever stands there when it is stopped is ended.
    """

    files: PairFiles
    folder: Path
    options: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    takes_orders: bool = True
    name: str = "hotspare"
    descriptors_max: int | None = None
    tier: Tier = Tier.HOT

    def __post_init__(self) -> None:
        """Choose a port and begin a book of orders."""
        self.port = free_port()
        self.folder = self.folder.resolve()
        self.book = OrderBook(self.folder / "orders")
        self.seen: list[Seen] = []
        self.ready_s = 0.0
        self._known: Sequence[Mapping[str, Any]] = ()
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None

    @property
    def room(self) -> Path:
        """Return the folder that the server's processes stand in."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """Return the server's log."""
        return self.folder / "server.log"

    def start(self) -> None:
        """Start the server and wait for both members; its own log lines are kept with the time they came."""
        began = time.monotonic()
        self.room.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            self._command(),
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**for_children(), **self.environment},
            cwd=self.room,
            start_new_session=True,  # a Ctrl-C is for the drill, which ends the server in order
        )
        self._listener = threading.Thread(target=self._listen, args=(cast(TextIO, self._process.stderr),), daemon=True)
        self._listener.start()
        if self.descriptors_max is not None:
            resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (self.descriptors_max, self.descriptors_max))
        until("The pair's start", self.answers, log=self.log)
        self.ready_s = time.monotonic() - began
        until("The pair's redundancy", self.is_whole, log=self.log)

    def _command(self) -> list[str]:
        faulty = ("-m", "pipeline.drill.faulty_server", "--orders", str(self.folder / "orders"))
        program = faulty if self.takes_orders else ("-m", "pipeline.cli", "serve")
        files = self.files
        places = {"--primary": files.primary, "--standby": files.backup, "--trust": files.trust}
        if files.channel is not None:
            places["--channel"] = files.channel
        named = [text for option, path in places.items() for text in (option, str(path.resolve()))]
        return [sys.executable, *program, *named, "--port", str(self.port), *self.options]

    def _listen(self, stream: TextIO) -> None:
        with self.log.open("a") as log:
            for line in stream:
                now = time.monotonic()
                log.write(line)
                log.flush()
                record = record_in(line)
                if record is not None:
                    self.seen.append(Seen(now, record))

    def answers(self) -> bool:
        """Tell whether the server is ready; raises InternalError when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            log = self.log.read_text()
            raise InternalError(f"The server ended by itself ({self._process.returncode}): {log[-600:]}")
        return get(self.port, "/v2/health/ready")[0] == 200

    def status(self, timeout_s: float = 1.0) -> Mapping[str, Any]:
        """Return the pair's part of /status.json; empty while nobody answers."""
        code, body = get(self.port, "/status.json", timeout_s)
        if code != 200:
            return {}
        told = json.loads(body)
        pairs = told["pairs"] if isinstance(told, dict) else told
        pair: Mapping[str, Any] = pairs[0]
        return pair

    def members(self) -> Sequence[Mapping[str, Any]]:
        """Return what /status.json tells of the members."""
        return self._kept(self.status())

    def _kept(self, status: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        members: Sequence[Mapping[str, Any]] = status.get("members", ())
        self._known = members or self._known
        return members

    def ready_members(self) -> int:
        """Count the members that are ready."""
        return sum(member["state"] == "ready" for member in self.members())

    def is_whole(self) -> bool:
        """Tell whether every member is ready, or waits in the tier that was asked for."""
        members = self.members()
        return bool(members) and all(
            one["state"] == "ready" or (one["seat"]["role"] == Role.BACKUP and one["state"] == _WAITS[self.tier])
            for one in members
        )

    def pid(self, role: Role) -> int:
        """Return the process of a role's first worker; raises InternalError when none is up."""
        return self.pids(role)[0]

    def pids(self, role: Role) -> list[int]:
        """Return the processes of a role's workers; raises InternalError when none is up.

        A server too busy to say is not waited for: those that it named last are taken. None of them is dead.
        """
        members = self._kept(self.status(_BUSY_S))
        found = [int(one["pid"]) for one in members or self._known if one["seat"]["role"] == role and one["pid"]]
        found = [pid for pid in found if stands_in(pid, self.room)]  # a strike at a zombie would prove nothing
        if not found:
            raise InternalError(f"No {role} is up; read its log.")
        return found

    def evictions(self) -> tuple[float, ...]:
        """Return when the primary was found at fault."""
        return tuple(one.at_s for one in self.seen if one.facts.get("seat") == f"{Role.PRIMARY}-0")

    def answering_pid(self) -> int:
        """Return the process that answers HTTP: the one below the first that is no worker.

        A server too busy to say who is one is not waited for: those that it named last are taken.
        """
        workers = {member["pid"] for member in self.members() or self._known}
        below = [pid for pid in descendants(self.keeper_pid) if pid not in workers]
        return below[0] if below else self.keeper_pid

    @property
    def keeper_pid(self) -> int:
        """Return the process that was started; raises InternalError before."""
        if self._process is None:
            raise InternalError("The server was not started yet; start it first.")
        return self._process.pid

    def reload(self) -> None:
        """Have the server read its bundles and channel again, as an operator or a timer does (SIGHUP)."""
        os.kill(self.keeper_pid, signal.SIGHUP)

    def family(self) -> list[int]:
        """Return every process of the server, whoever its parent is."""
        return standing_in(self.room)

    def stop(self) -> None:
        """End the server, in order if it can, and whatever it has left behind."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            end_all(self.family)
            if self._listener is not None:
                self._listener.join(_END_S)
