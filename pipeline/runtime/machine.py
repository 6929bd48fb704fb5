"""What a pair needs of the machine under it, as a port: workers to be started, talked to and looked at."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pipeline.core.clock import utc_now
from pipeline.core.tensors import Tensors
from pipeline.runtime.keeper_client import KeeperClient, Spawned
from pipeline.runtime.link import OnScrubbed, WorkerEvents, WorkerLink
from pipeline.runtime.procfs import ProcessSample, oom_kills, sample
from pipeline.runtime.worker_spec import WorkerSpec


class Link(Protocol):
    """The server's end of one worker; all methods do nothing once the worker is lost or killed."""

    @property
    def nonsense(self) -> str | None:
        """Return what nonsense the worker talked, for which it was killed; None: it did not."""

    @property
    def unsent_bytes(self) -> int:
        """Return how much the worker has not taken yet."""

    def infer(self, request_id: int, term: int, inputs: Tensors) -> None:
        """Send a request."""

    def load(self) -> None:
        """Make a staged worker get ready."""

    def scrub(self, callback: OnScrubbed) -> None:
        """Have the loaded bytes hashed again."""

    def set_term(self, term: int) -> None:
        """Tell the term."""

    def kill(self) -> None:
        """End the worker at once, whatever state it is in."""


class Born(Protocol):
    """A worker that was started, and to which nobody talks yet."""

    @property
    def pid(self) -> int:
        """Return its process."""

    async def open(self, events: WorkerEvents) -> Link:
        """Begin to talk to it."""


class Machine(Protocol):
    """What workers run on."""

    on_exit: Callable[[int, int | None], None]  # (pid, wait status), called once for every worker that ended

    async def spawn(self, spec: WorkerSpec) -> Born:
        """Start a worker; raises SurroundingsError when the machine cannot."""

    def sample(self, pid: int) -> ProcessSample | None:
        """Look at a process; None when there is none."""

    def oom_kills(self) -> int:
        """Return how many processes were killed for want of memory so far."""

    def utc_now(self) -> datetime:
        """Return its wall clock's time: what the dates of channels are held against."""


@dataclass(frozen=True)
class _Forked:
    """A worker that the keeper forked."""

    spawned: Spawned

    @property
    def pid(self) -> int:
        return self.spawned.pid

    async def open(self, events: WorkerEvents) -> Link:
        return await WorkerLink.open(self.spawned, events)


class ThisMachine:
    """Real processes: forked by the keeper, talked to over sockets, looked at through ``/proc``."""

    def __init__(self, keeper: KeeperClient) -> None:
        self._keeper = keeper

    @property
    def on_exit(self) -> Callable[[int, int | None], None]:
        """Return who is told of ends."""
        return self._keeper.on_exit

    @on_exit.setter
    def on_exit(self, told: Callable[[int, int | None], None]) -> None:
        self._keeper.on_exit = told

    async def spawn(self, spec: WorkerSpec) -> Born:
        """Start a worker; raises SurroundingsError when the machine cannot, or no keeper answers."""
        return _Forked(await self._keeper.spawn(spec))

    def sample(self, pid: int) -> ProcessSample | None:
        """Look at a process; None when there is none."""
        return sample(pid)

    def oom_kills(self) -> int:
        """Return how many processes the kernel has killed for want of memory, since its start."""
        return oom_kills()

    def utc_now(self) -> datetime:
        """Return the time."""
        return utc_now()
