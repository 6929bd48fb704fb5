"""The workers of a pair as the server knows them: started, fed, stopped; every report names seat and incarnation."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Protocol

from pipeline.core.errors import HotspareError
from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.machine import Link, Machine
from pipeline.runtime.members import Seat
from pipeline.runtime.procfs import ProcessSample
from pipeline.runtime.worker_spec import ReadyFacts, WorkerSpec

EXIT_STATUS_MS = 10  # its requests wait so long for how it ended: were they the cause?
EXIT_KNOWN_MS = 500  # the diagnosis waits longer: on a busy machine the keeper hears of an end late
DRAIN_MS = 2000

SpecOf = Callable[[Seat, int, bool], WorkerSpec]


class Reports(Protocol):
    """Who is told what workers do."""

    def staged(self, worker: "Worker") -> None:
        """Hear that its bundle is verified, its model not loaded."""

    def ready(self, worker: "Worker") -> None:
        """Hear that it answered the golden rows."""

    def start_failed(self, worker: "Worker", sentence: str, error: str) -> None:
        """Hear why it could not be started; ``error`` is the name of our error class."""

    def answered(self, worker: "Worker", request_id: int, outputs: Mapping[str, Array] | None, error: str) -> None:
        """Hear its answer to a request: outputs, or an error's sentence."""

    def lost(self, worker: "Worker") -> None:
        """Hear that its connection closed: nothing more comes from it."""

    def settled(self, worker: "Worker", exit_status: int | None) -> None:
        """Hear how it ended (None: not known within 10 ms): what was in flight can be dealt with."""

    def ended(self, worker: "Worker", exit_status: int | None) -> None:
        """Hear how it ended, once that is known (None: not within half a second): it can be diagnosed."""


class Worker:
    """One started worker: which requests it holds, and since when."""

    def __init__(self, seat: Seat, incarnation: int, reports: Reports, machine: Machine) -> None:
        self.seat = seat
        self.incarnation = incarnation
        self.facts: ReadyFacts | None = None
        self.link: Link | None = None
        self.pid: int | None = None
        self.sent_ms: dict[int, float] = {}  # by request id, oldest first
        self.suspects: set[int] = set()  # requests that it may have ended or hung at
        self.last_answer_ms = 0.0
        self.engine_ms = 0.0  # of its last answer
        self.closing = False
        self.dismissed = False  # by us: how it ends is no news
        self.settled = False
        self.held = 0  # requests in its hands when it ended
        self.has_told_end = False
        self.has_exited = False
        self.exit_status: int | None = None
        self._reports = reports
        self._machine = machine

    @property
    def usable(self) -> bool:
        """Tell whether requests may be sent to it."""
        return self.facts is not None and self.link is not None and not self.closing

    @property
    def is_starting(self) -> bool:
        """Tell whether it is up and cannot answer yet; a staged one waits like that until it is needed."""
        return self.facts is None and self.link is not None and not self.closing

    @property
    def nonsense(self) -> str | None:
        """Return what nonsense it talked, if it did: then it was killed by us, and how it ended tells nothing."""
        return None if self.link is None else self.link.nonsense

    @property
    def load(self) -> int:
        """Return how many requests it holds."""
        return len(self.sent_ms)

    def look(self) -> ProcessSample | None:
        """Look at its process; None when there is none."""
        return None if self.pid is None else self._machine.sample(self.pid)

    @property
    def unsent_bytes(self) -> int:
        """Return how much of what it was sent it has not taken yet."""
        return 0 if self.link is None else self.link.unsent_bytes

    def infer(self, request_id: int, term: int, inputs: Tensors, now_ms: float) -> None:
        """Send one request."""
        if self.link is not None:
            self.link.infer(request_id, term, inputs)
            self.sent_ms[request_id] = now_ms

    # What the link calls.

    def on_staged(self) -> None:
        """Pass on."""
        self._reports.staged(self)

    def on_ready(self, facts: ReadyFacts) -> None:
        """Keep the facts, pass on."""
        self.facts = facts
        self._reports.ready(self)

    def on_start_failed(self, sentence: str, error: str) -> None:
        """Pass on."""
        self.closing = True
        self._reports.start_failed(self, sentence, error)

    def on_answer(
        self,
        request_id: int,
        outputs: Mapping[str, Array] | None,
        error: str | None,
        server_ms: float,
    ) -> None:
        """Take the request off the list, pass on; an answer to what was not asked is no answer."""
        sent = self.sent_ms.pop(request_id, None)
        if sent is not None:
            self.last_answer_ms = 1000 * asyncio.get_running_loop().time()
            self.engine_ms = server_ms
            self._reports.answered(self, request_id, outputs, error or "")

    def on_lost(self) -> None:
        """Pass on; how it ended follows soon."""
        if self.closing:
            return
        self.closing = True
        self._reports.lost(self)
        if self.has_exited:
            self.end()
        else:
            loop = asyncio.get_running_loop()
            loop.call_later(EXIT_STATUS_MS / 1000, self.settle, None)
            loop.call_later(EXIT_KNOWN_MS / 1000, self.tell_end)

    def end(self) -> None:
        """Take that its process is gone, if its connection did not say so."""
        self.on_lost()
        self.settle(self.exit_status)
        self.tell_end()

    def settle(self, exit_status: int | None) -> None:
        """Have what it held dealt with, once."""
        if not self.settled and self.closing:
            self.settled, self.held = True, self.load
            self._reports.settled(self, None if self.nonsense else exit_status)

    def tell_end(self) -> None:
        """Say once how it ended."""
        if not self.has_told_end:
            self.has_told_end = True
            self._reports.ended(self, None if self.nonsense else self.exit_status)

    def kill(self) -> None:
        """End it at once, whatever state it is in."""
        self.dismissed = self.dismissed or not self.closing  # one that was lost before has ended by itself
        self.closing = True
        if self.link is not None:
            self.link.kill()

    async def drain(self) -> None:
        """Let it finish what it holds, then end it."""
        self.closing = self.dismissed = True
        loop = asyncio.get_running_loop()
        until = loop.time() + DRAIN_MS / 1000
        while self.sent_ms and loop.time() < until:
            await asyncio.sleep(0.002)
        self.kill()


class Crew:
    """The workers of one pair, at most one a seat, and tasters beside them."""

    def __init__(self, machine: Machine, spec_of: SpecOf, reports: Reports) -> None:
        self.workers: dict[Seat, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._coming: dict[Worker, None] = {}  # asked of the machine, not here yet
        self._ended_early: dict[int, int | None] = {}  # wait statuses told while some were coming, by pid
        self._machine = machine
        self._spec_of = spec_of
        self._reports = reports
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, seat: Seat, incarnation: int, then_load: bool, as_member: bool = True) -> Worker:
        """Start a worker; with ``as_member`` it takes its seat, else it is a taster."""
        worker = Worker(seat, incarnation, self._reports, self._machine)
        if as_member:
            self.workers[seat] = worker
        if not self._coming:  # what ended before is none that comes now, though it may get the same pid
            self._ended_early.clear()
        self._coming[worker] = None
        self._run(self._start(worker, self._spec_of(seat, incarnation, then_load)))
        return worker

    async def _start(self, worker: Worker, spec: WorkerSpec) -> None:
        try:
            born = await self._machine.spawn(spec)
        except HotspareError as error:
            if not worker.closing:
                worker.on_start_failed(str(error), type(error).__name__)
            return
        finally:
            del self._coming[worker]
        worker.pid = born.pid
        self._by_pid = {pid: one for pid, one in self._by_pid.items() if not one.has_told_end}
        self._by_pid[born.pid] = worker
        worker.link = await born.open(worker)
        if born.pid in self._ended_early:  # the keeper told its start and its end in one breath
            self.exited(born.pid, self._ended_early.pop(born.pid))
        if worker.closing:  # it was stopped while it was being started
            worker.kill()

    def of(self, seat: Seat, incarnation: int) -> Worker | None:
        """Return the worker of a seat if it still is of this incarnation."""
        worker = self.workers.get(seat)
        return worker if worker is not None and worker.incarnation == incarnation else None

    def load(self, seat: Seat, incarnation: int) -> None:
        """Make a staged worker load its model."""
        worker = self.of(seat, incarnation)
        if worker is not None and worker.link is not None:
            worker.link.load()

    def stop(self, seat: Seat, incarnation: int, drain: bool) -> None:
        """End a worker: at once, or when it has answered what it holds."""
        worker = self.of(seat, incarnation)
        if worker is None:
            return
        if drain:
            self._run(worker.drain())
        else:
            worker.kill()

    def tell_term(self, term: int) -> None:
        """Tell every worker the term, for its process title."""
        for worker in self.workers.values():
            if worker.link is not None and not worker.closing:
                worker.link.set_term(term)

    def exited(self, pid: int, status: int | None) -> None:
        """Take the keeper's word on how a process ended; its own last words may still wait in its connection."""
        worker = self._by_pid.pop(pid, None)
        if worker is None:
            if self._coming:
                self._ended_early[pid] = status
            return
        worker.has_exited, worker.exit_status = True, status
        if worker.closing or worker.link is None:
            worker.end()
        else:
            asyncio.get_running_loop().call_later(EXIT_STATUS_MS / 1000, worker.end)

    def kill_all(self) -> None:
        """End every worker, those too that the keeper has yet to start."""
        for worker in [*self._by_pid.values(), *self._coming]:
            worker.kill()

    def _run(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
