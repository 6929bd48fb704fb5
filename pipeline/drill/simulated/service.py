"""The service in the simulated world: a keeper that keeps one server process up, and that server, which is real."""

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Mapping

from pipeline.core.errors import SurroundingsError, Untrusted
from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.drill.nouns import Moment
from pipeline.drill.simulated.disk import ServersDisk
from pipeline.drill.simulated.machine import SimulatedMachine
from pipeline.drill.simulated.models import MODEL, places
from pipeline.drill.simulated.surroundings import Surroundings
from pipeline.drill.told import told_moment, told_served
from pipeline.runtime.journal import Journal
from pipeline.runtime.pair_nouns import NoteKind
from pipeline.runtime.restarts import restart_delay_ms
from pipeline.runtime.server import Server, Serving
from pipeline.runtime.service import Answer, NotAnswered, PairStatus
from pipeline.runtime.settings import Settings

_OPEN_AGAIN_MS = 500.0
_BOOT_MS = (40.0, 90.0)
Done = Callable[[Answer | NotAnswered | None], None]  # None: the connection was reset


class ServerProcess:
    """One life of the server: what it is given dies with it."""

    def __init__(self, world: Surroundings) -> None:
        self.machine = SimulatedMachine(world)
        self.disk = ServersDisk(world.disk)
        self.server: Server | None = None
        self.asked: dict[int, tuple[asyncio.Task[None], Done]] = {}
        self.is_alive = True


class SimulatedService:
    """A keeper and its server. Requests that come while no server is up wait in the listening socket, as they do."""

    def __init__(self, world: Surroundings, settings: Settings, began_ms: Callable[[], float]) -> None:
        self.moments: list[Moment] = []
        self.serving: list[tuple[float, Role | None, int]] = []
        self.hedged = 0
        self.resent = 0
        self.is_redundant = False
        self._world = world
        self._loop = world.loop
        self._settings = settings
        self._at_ms = began_ms
        self._ids = itertools.count()
        self._backlog: deque[tuple[Mapping[str, Array], float, Done]] = deque()
        self._deaths_s: list[float] = []
        self._process = ServerProcess(world)
        self._booting = self._loop.create_task(self._boot(self._process))

    @property
    def machine(self) -> SimulatedMachine:
        """Return the machine as the present server sees it."""
        return self._process.machine

    def status(self) -> PairStatus | None:
        """Return the pair's state; None while no server is up."""
        server = self._process.server
        return None if server is None else next(iter(server.status()), None)

    # Its life.

    async def _boot(self, process: ServerProcess) -> None:
        """Start a server process, which opens its bundles; a restarted one serves what is not refused."""
        await self._world.pause(self._world.draw.uniform(*_BOOT_MS))
        serving = Serving((places(),), self._settings)
        server = Server(serving, process.machine, process.disk, lambda model: Journal(model, self._log(process)))
        while process.is_alive:
            try:
                server.open(strict=not self._deaths_s)
            except SurroundingsError:
                await self._world.pause(_OPEN_AGAIN_MS)
            except Untrusted:
                self._end(process)
                self._restart()
                return
            else:
                break
        process.server = server
        while self._backlog and process.is_alive:
            self.ask(*self._backlog.popleft())

    def die(self) -> None:
        """End the server by SIGKILL: whoever waits for an answer is reset, workers end, the keeper starts another."""
        process = self._process
        if not process.is_alive:
            return
        if self.serving:
            self.serving.append((self._at_ms(), None, self.serving[-1][2]))
        self._count(process)
        self._end(process)
        self._restart()

    def _end(self, process: ServerProcess) -> None:
        process.is_alive = process.disk.is_alive = False
        process.machine.die()
        server, process.server = process.server, None
        if server is not None:
            server.close()  # it says and does nothing any more; this only takes its timers off the loop
            for swap in server._tasks:
                swap.cancel()
        for task, done in process.asked.values():
            task.cancel()
            done(None)
        process.asked.clear()
        self.is_redundant = False

    def _restart(self) -> None:
        self._deaths_s.append(self._loop.time())
        self._loop.call_later(restart_delay_ms(self._deaths_s, self._loop.time()) / 1000, self._start_again)

    def _start_again(self) -> None:
        self._process = ServerProcess(self._world)
        self._booting = self._loop.create_task(self._boot(self._process))

    def read_again(self) -> None:
        """Have the bundles read again (SIGHUP)."""
        if self._process.server is not None:
            self._process.server.swap_soon()

    def close(self) -> None:
        """End everything; the counters are complete then."""
        self._count(self._process)
        self._booting.cancel()
        self._end(self._process)

    def _count(self, process: ServerProcess) -> None:
        if process.server is not None:
            for pair in process.server.status():
                self.hedged += pair.counters.hedges
                self.resent += pair.counters.resent

    # Its clients.

    def ask(self, inputs: Mapping[str, Array], deadline_ms: float, done: Done) -> None:
        """Let a request arrive."""
        process = self._process
        if process.server is None:
            self._backlog.append((inputs, deadline_ms, done))
            return
        number = next(self._ids)
        task = self._loop.create_task(self._answer(process, process.server, number, inputs, deadline_ms))
        process.asked[number] = task, done

    async def _answer(
        self, process: ServerProcess, server: Server, number: int, inputs: Mapping[str, Array], deadline_ms: float
    ) -> None:
        outcome = await server.infer(MODEL, None, inputs, deadline_ms)
        if process.is_alive:
            process.asked.pop(number)[1](outcome)

    # Its log.

    def _log(self, process: ServerProcess) -> Callable[[Mapping[str, object]], None]:
        return lambda record: self._told(record) if process.is_alive else None

    def _told(self, record: Mapping[str, object]) -> None:
        kind, at_ms = record.get("kind"), self._at_ms()
        if kind in (NoteKind.REDUNDANCY_BACK, NoteKind.REDUNDANCY_LOST):
            self.is_redundant = kind is NoteKind.REDUNDANCY_BACK
        served = told_served(at_ms, record, self.serving[-1][2] if self.serving else 0)
        if served is not None:
            self.serving.append(served)
        self.moments.append(told_moment(at_ms, record))
