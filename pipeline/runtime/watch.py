"""What is looked at all the time: canaries, overdue answers, error streaks, memory, bytes; and what that says."""

import functools
import itertools
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime.canaries import Canaries, CanaryWatch, canary_rounds
from pipeline.runtime.crew import Worker
from pipeline.runtime.diagnosis import Evidence
from pipeline.runtime.members import Fault
from pipeline.runtime.procfs import ProcessSample, sample
from pipeline.runtime.release import Release
from pipeline.runtime.service import Answer
from pipeline.runtime.settings import Settings
from pipeline.runtime.shadowing import Shadowing

LAG_MS = 20.0  # when the loop itself was late by more, answers may wait unread: nobody is judged in that tick
_SECOND_MS = 1000.0


class Ground(Protocol):
    """What the watch needs of the pair around it."""

    @property
    def term(self) -> int:
        """Return the current term."""

    def now_ms(self) -> float:
        """Return monotonic milliseconds."""

    def ready_workers(self) -> list[Worker]:
        """Return the workers that can answer."""

    def fail(self, worker: Worker, fault: Fault, evidence: Evidence) -> None:
        """Say what is wrong with a worker."""

    def probed(self, worker: Worker) -> None:
        """Say that a canary came back right and in time."""

    def doubt(self, sentence: str) -> None:
        """Say that the sides have come apart."""

    def recent_ms(self) -> tuple[float, ...]:
        """Return recent answer times of the whole pair."""


@dataclass
class _Watched:
    """What is known of one worker beyond what it holds."""

    canaries: CanaryWatch
    rss_at_start: int
    next_probe_ms: float
    next_scrub_ms: float
    probe: tuple[int, int] | None = None  # request id, turn
    late: ProcessSample | None = None  # taken when its oldest request became late
    errors: list[str] = field(default_factory=list)  # in a row, blamed on it
    rss_bytes: int = 0


class Watch:
    """The watch over one pair's workers; :meth:`tick` is called every few milliseconds."""

    def __init__(
        self, release: Release, settings: Settings, ground: Ground, ids: "itertools.count[int]", shadowing: Shadowing
    ) -> None:
        self.hedge_after_ms = float(settings.hedge_max_ms)
        self._settings = settings
        self._ground = ground
        self._ids = ids
        self._rounds: dict[Role, tuple[Canaries, ...]] = {
            role: canary_rounds(bundle) for role, bundle in release.bundles.items()
        }
        self._shadowing = shadowing
        self._shadows: dict[int, tuple[Worker, Mapping[str, Array]]] = {}  # released outputs, by the shadow's id
        self._watched: dict[Worker, _Watched] = {}
        self._last_tick_ms = ground.now_ms()
        self._next_second_ms = self._last_tick_ms + _SECOND_MS

    def begin(self, worker: Worker) -> None:
        """Watch a worker that has just become ready."""
        now = self._ground.now_ms()
        rss = worker.facts.rss_bytes if worker.facts is not None else 0
        self._watched[worker] = _Watched(
            CanaryWatch(self._rounds[worker.seat.role]),
            rss,
            now,
            now + self._settings.scrub_every_s * 1000,
            rss_bytes=rss,
        )

    def rss_bytes(self, worker: Worker) -> int | None:
        """Return a worker's resident memory when it was last looked at."""
        watched = self._watched.get(worker)
        return None if watched is None else watched.rss_bytes

    # Every few milliseconds.

    def tick(self) -> None:
        """Look at every worker."""
        now = self._ground.now_ms()
        lag, self._last_tick_ms = now - self._last_tick_ms, now
        workers = self._ground.ready_workers()
        for gone in self._watched.keys() - set(workers):
            if gone.closing:
                del self._watched[gone]
                self._shadows = {one: kept for one, kept in self._shadows.items() if kept[0] is not gone}
        if lag < LAG_MS + 10:
            self._judge(workers, now)
        for worker in workers:
            self._probe(worker, now)
        if now >= self._next_second_ms:
            self._next_second_ms = now + _SECOND_MS
            self._look(workers, now)

    def _judge(self, workers: list[Worker], now: float) -> None:
        for worker in workers:
            watched = self._watched[worker]
            age = now - next(iter(worker.sent_ms.values()), now)
            if age < self._settings.hedge_max_ms:
                watched.late = None
            elif watched.late is None and worker.pid is not None:
                watched.late = sample(worker.pid)
            elif age > self._settings.evict_after_ms:
                self._overdue(worker, watched, age)

    def _overdue(self, worker: Worker, watched: _Watched, age: float) -> None:
        found = sample(worker.pid) if worker.pid is not None else None
        if found is None or watched.late is None:
            return
        waited = found.runqueue_wait_ms - watched.late.runqueue_wait_ms
        if age - waited > self._settings.evict_after_ms:
            fault = Fault.STOPPED if found.is_stopped else Fault.HANG
            worker.suspects = set() if found.is_stopped else {next(iter(worker.sent_ms))}
            self._ground.fail(worker, fault, Evidence(fault=fault, process_state=found.state, runqueue_wait_ms=waited))

    def _probe(self, worker: Worker, now: float) -> None:
        watched = self._watched[worker]
        if watched.probe is None and now >= watched.next_probe_ms:
            turn, request_id = watched.canaries.next_turn(), next(self._ids)
            watched.probe = (request_id, turn)
            watched.next_probe_ms = now + self._settings.probe_every_ms
            worker.infer(request_id, self._ground.term, watched.canaries.inputs(turn), now)

    def _look(self, workers: list[Worker], now: float) -> None:
        """Look at what changes slowly: memory, bytes, the pair's own pace."""
        for worker in workers:
            watched = self._watched[worker]
            found = sample(worker.pid) if worker.pid is not None else None
            watched.rss_bytes = watched.rss_bytes if found is None else found.rss_bytes
            if now >= watched.next_scrub_ms and worker.link is not None:
                watched.next_scrub_ms = now + self._settings.scrub_every_s * 1000
                worker.link.scrub(functools.partial(self._scrubbed, worker))

    def _scrubbed(self, worker: Worker, ok: bool, sentence: str) -> None:
        if not ok and worker.usable:
            evidence = Evidence(fault=Fault.CORRUPT_WEIGHTS, memory_bytes_ok=False, errors=(sentence,))
            self._ground.fail(worker, Fault.CORRUPT_WEIGHTS, evidence)

    # What answers say.

    def took(self, worker: Worker, request_id: int, outputs: Mapping[str, Array] | None, error: str) -> bool:
        """Take an answer if it is one to a canary or a shadow; returns whether it was."""
        if request_id in self._shadows:
            self._compare(self._shadows.pop(request_id)[1], outputs)
            return True
        watched = self._watched.get(worker)
        if watched is None or watched.probe is None or watched.probe[0] != request_id:
            return False
        turn, watched.probe = watched.probe[1], None
        if outputs is None:
            self._ground.fail(worker, Fault.ERRORS, Evidence(fault=Fault.ERRORS, canary_ok=False, errors=(error,)))
        elif problem := watched.canaries.check(turn, outputs):
            evidence = Evidence(fault=Fault.WRONG_ANSWER, canary_ok=False, errors=(problem,))
            self._ground.fail(worker, Fault.WRONG_ANSWER, evidence)
        else:
            self._ground.probed(worker)
        return True

    def shadow(self, inputs: Mapping[str, Array], released: Answer) -> None:
        """Have the other side answer a request too, if it is this one's turn."""
        others = [worker for worker in self._ground.ready_workers() if worker.seat.role is not released.role]
        if others and self._shadowing.is_due():
            request_id = next(self._ids)
            self._shadows[request_id] = (others[0], released.outputs)
            others[0].infer(request_id, self._ground.term, inputs, self._ground.now_ms())

    def _compare(self, released: Mapping[str, Array], shadow: Mapping[str, Array] | None) -> None:
        problem = None if shadow is None else self._shadowing.compare(released, shadow)
        if problem is not None:
            self._ground.doubt(problem)

    def good(self, worker: Worker) -> None:
        """Take that a worker answered well."""
        if (watched := self._watched.get(worker)) is not None and watched.errors:
            watched.errors = []

    def blame(self, worker: Worker, fault: Fault, problem: str) -> None:
        """Take that a worker failed at what another could answer; a few in a row are a fault of its own."""
        watched = self._watched.get(worker)
        if watched is None or not worker.usable:
            return
        watched.errors.append(problem)
        watched.next_probe_ms = 0.0  # ask a question whose answer is known
        if len(watched.errors) >= self._settings.errors_in_a_row:
            self._ground.fail(
                worker, fault, Evidence(fault=fault, other_side_ok=True, errors=tuple(watched.errors[-3:]))
            )


def ended_by_itself(exit_status: int | None) -> bool:
    """Tell whether a worker's end may be the fault of what it computed: not when somebody killed it."""
    if exit_status is None:
        return True
    return not (os.WIFSIGNALED(exit_status) and os.WTERMSIG(exit_status) in (signal.SIGKILL, signal.SIGTERM))


def exit_fault(exit_status: int | None) -> Fault:
    """Name how a process ended."""
    return Fault.CRASH if ended_by_itself(exit_status) else Fault.KILLED
