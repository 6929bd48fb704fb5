"""Worker processes of the simulated world: verified, loaded, answering one request at a time, hit by every fault."""

import signal
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from pipeline.core.errors import GoldenMismatch, HotspareError, ModelError
from pipeline.core.tensors import Array, Tensors
from pipeline.drill.fault_facts import amount
from pipeline.drill.nouns import FaultKind, Strike
from pipeline.drill.simulated.models import INPUT, OUTPUT, corrupted
from pipeline.drill.simulated.surroundings import Surroundings
from pipeline.runtime.link import OnScrubbed, WorkerEvents
from pipeline.runtime.procfs import ProcessSample
from pipeline.runtime.worker_spec import ReadyFacts, WorkerSpec

_RSS_BYTES = 100 << 20
_EXIT_FAILED = 3 << 8  # a wait status: exit code 3
_SCRUB_MS = 20.0
_RELEASE_MS = 0.2  # from a process's end to the end of its connection


class Stage(StrEnum):
    """How far a worker is."""

    VERIFYING = "verifying"
    STAGED = "staged"
    LOADING = "loading"
    READY = "ready"
    GONE = "gone"


@dataclass(slots=True)
class Job:
    """What a worker is at from ``since_ms``: it waits for a processor until ``runs_ms``, and is done at ``done_ms``."""

    since_ms: float
    runs_ms: float
    done_ms: float
    is_idle: bool  # asleep, not computing
    finish: Callable[[], None]


class Asked(NamedTuple):
    """A request in a worker's inbox."""

    request_id: int
    term: int
    inputs: Tensors


class Process:
    """One worker process. ``on_end(status)`` is called once, a little after it ended."""

    def __init__(self, pid: int, spec: WorkerSpec, world: Surroundings, on_end: Callable[[int, int], None]) -> None:
        self.pid = pid
        self.spec = spec
        self.stage = Stage.VERIFYING
        self.strike: Strike | None = None
        self._events: WorkerEvents | None = None  # None: nobody listens yet
        self._is_cut_off = False  # its server hung up: what it says is not heard
        self._world = world
        self._loop = world.loop
        self._on_end = on_end
        self._job: Job | None = None
        self._inbox: deque[Asked | int] = deque()  # requests and terms
        self._unheard: deque[Callable[[WorkerEvents], None]] = deque()  # said before anybody listened
        self._term = spec.term
        self._bundle_id = ""
        self._is_stopped = False
        self._runs = 0
        self._grown_mb = 0.0
        self._cpu_ms = 60.0
        self._waited_ms = self._took_ms = 0.0
        self._work(world.draw.uniform(6, 12), self._verified)

    # What its server does to it.

    def listen(self, events: WorkerEvents) -> None:
        """Let somebody hear what it says."""
        self._events = events
        while self._unheard:
            self._say(self._unheard.popleft())

    def hang_up(self) -> None:
        """Hear nothing more of it."""
        self._is_cut_off = True

    def ask(self, asked: Asked) -> None:
        """Put a request into its inbox."""
        if self.stage is not Stage.GONE:
            self._inbox.append(asked)
            self._next()

    def load(self) -> None:
        """Let it load its model, once it is staged."""
        if self.stage is Stage.STAGED:
            self.stage = Stage.LOADING
            self._work(self._world.draw.uniform(15, 35), self._loaded)

    def set_term(self, term: int) -> None:
        """Tell the term; a request of an older one that comes after this is refused."""
        if self._inbox:
            self._inbox.append(term)  # in its place among the requests, as frames are
        else:
            self._term = max(self._term, term)

    def scrub(self, callback: OnScrubbed) -> None:
        """Hash the loaded bytes: the engine's own copy, which is what a strike corrupts, is not among them."""
        self._loop.call_later(_SCRUB_MS / 1000, self._scrubbed, callback)

    def _scrubbed(self, callback: OnScrubbed) -> None:
        if self.stage is Stage.READY and not self._is_cut_off:
            callback(True, "")

    # What the kernel does to it.

    def end(self, status: int) -> None:
        """End it: its connection closes, its parent learns how."""
        if self.stage is Stage.GONE:
            return
        self.stage = Stage.GONE
        self._job = None
        self._inbox.clear()
        self._loop.call_later(_RELEASE_MS / 1000, self._cut)
        self._loop.call_later(self._world.draw.uniform(0.1, 3.0) / 1000, self._on_end, self.pid, status)

    def kill(self) -> None:
        """End it by SIGKILL: that works on a stopped one too."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """Freeze it (SIGSTOP): it keeps its inbox, and its processor is taken away."""
        self._is_stopped = True

    def resume(self) -> None:
        """Let it go on (SIGCONT) where it was: what was due meanwhile happens now."""
        self._is_stopped = False
        job = self._job
        if job is not None and self._loop.now_ms() >= job.done_ms:
            self._finished(job)
        self._next()

    def heal(self) -> None:
        """Take back what was done to its engine; a call that hangs comes back, with its answer."""
        strike, self.strike, self._runs = self.strike, None, 0
        if strike is not None and strike.fault is FaultKind.HANG and self._job is not None:
            self._work(0.5, self._job.finish)

    def _cut(self) -> None:
        self._say(lambda events: events.on_lost())

    def look(self) -> ProcessSample | None:
        """Say what ``/proc`` says of it; None once it is gone."""
        if self.stage is Stage.GONE:
            return None
        now, job = self._loop.now_ms(), self._job
        cpu, waited, state = self._cpu_ms, self._waited_ms, "S"
        if job is not None and not job.is_idle:
            state = "R"
            cpu += max(0.0, min(now, job.done_ms) - job.runs_ms)
        rss = _RSS_BYTES + int(self._grown_mb * (1 << 20))
        return ProcessSample("T" if self._is_stopped else state, cpu, waited, rss)

    # What it does.

    def _work(self, takes_ms: float, finish: Callable[[], None], is_idle: bool = False) -> None:
        """Be busy for a while; on a starved machine it waits for a processor first."""
        now, wait_ms = self._loop.now_ms(), 0.0
        if self._world.starvation and takes_ms != float("inf"):
            wait_ms = self._world.draw.expovariate(1 / (self._world.starvation * takes_ms + 2 * self._world.starvation))
        runs_ms = now + wait_ms
        self._job = job = Job(now, runs_ms, runs_ms + takes_ms, is_idle, finish)
        if takes_ms != float("inf"):
            self._loop.call_at(job.done_ms / 1000, self._finished, job)

    def _finished(self, job: Job) -> None:
        if job is not self._job or self._is_stopped:
            return
        self._job = None
        if not job.is_idle:
            self._cpu_ms += job.done_ms - job.runs_ms
        self._waited_ms += job.runs_ms - job.since_ms
        self._took_ms = self._loop.now_ms() - job.since_ms
        job.finish()
        self._next()

    def _say(self, what: Callable[[WorkerEvents], None]) -> None:
        if self._is_cut_off:
            return
        if self._events is None:
            self._unheard.append(what)
        else:
            what(self._events)

    def _verified(self) -> None:
        try:
            self._bundle_id = self._world.disk.verify(self.spec).bundle_id
        except HotspareError as error:
            self._give_up(error)
            return
        self.stage = Stage.STAGED
        self._say(lambda events: events.on_staged())
        if self.spec.then_load:
            self.load()

    def _loaded(self) -> None:
        role = self.spec.seat.role
        if self._world.failing_starts.get(role, 0) > 0:
            self._world.failing_starts[role] -= 1
            self._give_up(ModelError("The model cannot be loaded (a drill ordered that)."))
            return
        fault = None if self.strike is None else self.strike.fault
        if fault is FaultKind.HANG:
            self._work(float("inf"), self._loaded)
        elif fault is FaultKind.ERRORS:
            self._give_up(ModelError("The model cannot be run (a drill ordered errors)."))
        elif fault in _SPOILED:
            self._give_up(GoldenMismatch("The loaded model does not answer as when it was packed."))
        else:
            self.stage = Stage.READY
            self._say(lambda events: events.on_ready(self._facts()))

    def _facts(self) -> ReadyFacts:
        return ReadyFacts(self._bundle_id, "dense.f32", self.spec.model, 30.0, 0.3, 0.9, 0.4, _RSS_BYTES, self.pid)

    def _give_up(self, error: HotspareError) -> None:
        sentence, name = str(error), type(error).__name__
        self._say(lambda events: events.on_start_failed(sentence, name))
        self.end(_EXIT_FAILED)

    def _next(self) -> None:
        while self._job is None and not self._is_stopped and self.stage is Stage.READY and self._inbox:
            head = self._inbox.popleft()
            if isinstance(head, int):
                self._term = max(self._term, head)
            else:
                self._begin(head)

    def _begin(self, asked: Asked) -> None:
        if asked.term < self._term:
            self._work(0.05, lambda: self._tell(asked, None, f"The worker serves term {self._term} by now."))
            return
        self._term = asked.term
        takes_ms = 0.25 + self._world.draw.expovariate(4.0)
        strike = self.strike
        if strike is not None:
            self._runs += 1
            if strike.fault is FaultKind.HANG:
                self._work(float("inf"), lambda: self._answer(asked))
                return
            if strike.fault is FaultKind.SLOW:
                wait_ms = amount(strike, "ms") + self._world.draw.random() * amount(strike, "jitter_ms")
                wait_ms += amount(strike, "ramp_ms") * (self._runs - 1)
                self._work(wait_ms + takes_ms, lambda: self._answer(asked), is_idle=True)
                return
        self._work(takes_ms, lambda: self._answer(asked))

    def _answer(self, asked: Asked) -> None:
        role, strike = self.spec.seat.role, self.strike
        right = self._world.formula.answer(self._bundle_id, asked.inputs)
        if right is None:
            self.end(signal.SIGSEGV)
        elif role in self._world.exiting:
            self.end(_EXIT_FAILED)
        elif strike is not None and strike.fault is FaultKind.OUT_OF_MEMORY and self._grow(strike):
            self._world.oom_kills += 1
            self.end(signal.SIGKILL)
        elif strike is not None and strike.fault is FaultKind.ERRORS:
            self._tell(asked, None, "The model cannot be run (a drill ordered errors).")
        else:
            if strike is not None and strike.fault in _SPOILED:
                right = {OUTPUT: _SPOILED[strike.fault](asked.inputs[INPUT], right[OUTPUT], strike)}
            self._tell(asked, right, None)

    def _grow(self, strike: Strike) -> bool:
        self._grown_mb += amount(strike, "grow_mb")
        return self._grown_mb > amount(strike, "spare_mb")

    def _tell(self, asked: Asked, outputs: Mapping[str, Array] | None, error: str | None) -> None:
        if not self._is_cut_off and self._events is not None:
            self._events.on_answer(asked.request_id, outputs, error, self._took_ms)


_SPOILED: dict[FaultKind, Callable[[Array, Array, Strike], Array]] = {
    FaultKind.MALFORMED: lambda _rows, values, _strike: np.concatenate([values, values], axis=-1),
    FaultKind.NAN: lambda _rows, values, _strike: np.full_like(values, np.nan),
    FaultKind.WRONG_DTYPE: lambda _rows, values, _strike: values.astype(np.float64),
    FaultKind.WRONG_ANSWERS: lambda _rows, values, strike: np.asarray(
        values + np.asarray(amount(strike, "bias"), values.dtype)
    ),
    FaultKind.CORRUPT_WEIGHTS: lambda rows, values, _strike: corrupted(rows, values),
}
