"""The machine in the simulated world: it forks workers, tells how they ended, and carries what they say."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from pipeline.core.errors import SurroundingsError
from pipeline.core.tensors import Tensors
from pipeline.drill.simulated.processes import Asked, Process, Stage
from pipeline.drill.simulated.surroundings import Surroundings
from pipeline.runtime.link import OnScrubbed, WorkerEvents
from pipeline.runtime.machine import Link
from pipeline.runtime.members import Seat
from pipeline.runtime.procfs import ProcessSample
from pipeline.runtime.worker_spec import WorkerSpec


class SimulatedLink:
    """One server's end of a worker."""

    unsent_bytes = 0
    nonsense = None

    def __init__(self, process: Process) -> None:
        self._process = process

    def infer(self, request_id: int, term: int, inputs: Tensors) -> None:
        """Send a request."""
        self._process.ask(Asked(request_id, term, inputs))

    def load(self) -> None:
        """Make a staged worker get ready."""
        self._process.load()

    def scrub(self, callback: OnScrubbed) -> None:
        """Have the loaded bytes hashed again."""
        self._process.scrub(callback)

    def set_term(self, term: int) -> None:
        """Tell the term."""
        self._process.set_term(term)

    def kill(self) -> None:
        """End the worker; nothing more is heard of it."""
        self._process.hang_up()
        self._process.kill()


class Born:
    """A worker that was forked."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Return its process."""
        return self._process.pid

    async def open(self, events: WorkerEvents) -> Link:
        """Begin to talk to it; the first words come when the caller is done."""
        asyncio.get_running_loop().call_soon(self._process.listen, events)
        return SimulatedLink(self._process)


class SimulatedMachine:
    """All processes, and what one server asks of them; each server process has its own."""

    def __init__(self, world: Surroundings) -> None:
        self.on_exit: Callable[[int, int | None], None] = lambda _pid, _status: None
        self.processes: dict[int, Process] = {}
        self.is_alive = True
        self._world = world

    async def spawn(self, spec: WorkerSpec) -> Born:
        """Fork a worker; raises SurroundingsError where no descriptors are left."""
        await self._world.pause(self._world.draw.uniform(1.5, 5.0))
        if self._world.is_short_of_descriptors:
            raise SurroundingsError("A worker could not be started (Too many open files); raise the limit of files.")
        process = Process(self._world.next_pid(), spec, self._world, self._ended)
        self.processes[process.pid] = process
        if not self.is_alive:  # its server is gone: so is its lifeline
            process.kill()
        return Born(process)

    def _ended(self, pid: int, status: int) -> None:
        self.processes.pop(pid, None)
        if self.is_alive:
            self.on_exit(pid, status)

    def sample(self, pid: int) -> ProcessSample | None:
        """Look at a process."""
        process = self.processes.get(pid)
        return None if process is None else process.look()

    def oom_kills(self) -> int:
        """Return how many processes the kernel killed for want of memory."""
        return self._world.oom_kills

    def utc_now(self) -> datetime:
        """Return the wall clock's time."""
        return self._world.disk.now()

    def member(self, seat: Seat) -> Process | None:
        """Return the process that sits in a seat now."""
        found = [one for one in self.processes.values() if one.spec.seat == seat and one.stage is not Stage.GONE]
        return found[-1] if found else None

    def die(self) -> None:
        """End everything: the server that held the lifelines is gone."""
        self.is_alive = False
        for process in list(self.processes.values()):
            process.hang_up()
            process.kill()
