"""What is looked at all the time: canaries, overdue answers, error streaks, memory, bytes. Detectors judge it."""

import functools
import itertools
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime import detectors
from pipeline.runtime.canaries import Canaries, CanaryWatch, canary_rounds
from pipeline.runtime.crew import Worker
from pipeline.runtime.debts import Debts, look_at
from pipeline.runtime.detectors import Baseline, HedgeBudget
from pipeline.runtime.diagnosis import Evidence
from pipeline.runtime.flights import Flights
from pipeline.runtime.guards import Guard
from pipeline.runtime.members import Fault
from pipeline.runtime.oom import OomKills
from pipeline.runtime.pace import STARVED_RATIO, Paces
from pipeline.runtime.procfs import ProcessSample, waited_ms
from pipeline.runtime.release import Release
from pipeline.runtime.service import Answer
from pipeline.runtime.settings import Settings
from pipeline.runtime.shadowing import Shadowing

LAG_MS = 20.0  # the server itself was late by more: what it owes itself is nobody's fault
_TICK_MS = 10.0
STARVED_FOR_MS = 5000.0  # canaries of the time after a worker waited for a processor are not judged by their pace
_SECOND_MS = 1000.0


class Ground(Protocol):
    """What the watch needs of the pair around it."""

    @property
    def term(self) -> int:
        """Return the current term."""

    def now_ms(self) -> float:
        """Return monotonic milliseconds."""

    def oom_kills(self) -> int:
        """Return how many processes were killed for want of memory so far."""

    def ready_workers(self) -> list[Worker]:
        """Return the workers that can answer."""

    def starting_workers(self) -> list[Worker]:
        """Return the workers that are up and cannot answer yet."""

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
    rss_bytes: int
    next_probe_ms: float
    next_scrub_ms: float
    answers: detectors.Watch = field(default_factory=detectors.Watch)
    probe: tuple[int, int, float] | None = None  # request id, turn, sent at
    seen: tuple[float, ProcessSample] | None = None  # the last look of every second
    starved_ms: float = float("-inf")  # when it last waited for a processor for long
    baseline: Baseline | None = None


class Watch:
    """The watch over one pair's workers; :meth:`tick` is called every few milliseconds."""

    def __init__(
        self, release: Release, settings: Settings, ground: Ground, flights: Flights, ids: "itertools.count[int]",
        shadowing: Shadowing,
    ) -> None:  # fmt: skip
        self._hedge_after_ms = float(settings.hedge_max_ms)
        self._budget = HedgeBudget()
        self._settings = settings
        self._ground = ground
        self._ids = ids
        self._rounds: dict[Role, tuple[Canaries, ...]] = {
            role: canary_rounds(bundle) for role, bundle in release.bundles.items()
        }
        self._guards = {role: Guard(bundle.io) for role, bundle in release.bundles.items()}
        self._shadowing = shadowing
        self._shadows: dict[int, tuple[Worker, Mapping[str, Array]]] = {}  # released outputs, by the shadow's id
        self._watched: dict[Worker, _Watched] = {}
        self._debts = Debts(settings, ground, flights)
        self._paces = Paces(ground)
        self._even = {role for role, bundle in release.bundles.items() if bundle.io.rows_are_even}
        self._last_tick_ms = ground.now_ms()
        self._next_second_ms = self._last_tick_ms + _SECOND_MS
        self._oom = OomKills(ground.oom_kills)

    def begin(self, worker: Worker) -> None:
        """Watch a worker that has just become ready."""
        now = self._ground.now_ms()
        rss = 0 if worker.facts is None else worker.facts.rss_bytes
        scrub_ms = now + 1000 * self._settings.scrub_every_s
        self._watched[worker] = _Watched(CanaryWatch(self._rounds[worker.seat.role]), rss, rss, now, scrub_ms)
        if worker.seat.role in self._even:
            self._paces.begin(worker)

    def rss_bytes(self, worker: Worker) -> int | None:
        """Return a worker's resident memory when it was last looked at."""
        watched = self._watched.get(worker)
        return None if watched is None else watched.rss_bytes

    # Every few milliseconds.

    def tick(self) -> None:
        """Look at every worker."""
        now, before = self._ground.now_ms(), self._last_tick_ms
        lag, self._last_tick_ms = now - before - _TICK_MS, now
        workers = self._ground.ready_workers()
        self._forget(set(workers))
        if lag > LAG_MS:  # answers of the time since may wait unread: judged is what was owed before
            self._debts.judge(workers, before, is_late=True)
            self._debts.forgive(lag)
        else:
            self._debts.judge(workers, now)
        for worker in workers:
            if worker.usable:
                self._probe(worker, now)
        if now >= self._next_second_ms:
            self._next_second_ms = now + _SECOND_MS
            self._look(workers, now)

    def _forget(self, workers: set[Worker]) -> None:
        forgotten = [worker for worker in self._watched if worker not in workers and worker.closing]
        self._paces.forget(forgotten)
        for gone in forgotten:
            del self._watched[gone]
            self._shadows = {one: kept for one, kept in self._shadows.items() if kept[0] is not gone}

    def _probe(self, worker: Worker, now: float) -> None:
        watched = self._watched[worker]
        if watched.probe is None and now >= watched.next_probe_ms:
            turn, request_id = watched.canaries.next_turn(), next(self._ids)
            watched.probe = (request_id, turn, now)
            watched.next_probe_ms = now + self._settings.probe_every_ms
            worker.infer(request_id, self._ground.term, watched.canaries.inputs(turn), now)

    # Every second.

    def _look(self, workers: list[Worker], now: float) -> None:
        """Look at what changes slowly: the pair's own pace, memory, bytes."""
        self._oom.look()
        self._hedge_after_ms = detectors.hedge_after_ms(self._settings, self._ground.recent_ms())
        for worker in self._ground.starting_workers():
            self._look_at_start(worker)
        for worker in workers:
            if worker.usable:
                self._look_at_memory(worker)
                self._look_at_pace(worker, workers)
            if worker.usable and now >= self._watched[worker].next_scrub_ms and worker.link is not None:
                self._watched[worker].next_scrub_ms = now + 1000 * self._settings.scrub_every_s
                worker.link.scrub(functools.partial(self._scrubbed, worker))

    def _look_at_start(self, worker: Worker) -> None:
        """End one that is stopped before it is ready: it owes nobody an answer, and would never get ready."""
        found = look_at(worker)
        if found is not None and found.is_stopped:
            evidence = Evidence(fault=Fault.STOPPED, process_state=found.state)
            self._ground.fail(worker, Fault.STOPPED, evidence)

    def _look_at_memory(self, worker: Worker) -> None:
        watched, found = self._watched[worker], look_at(worker)
        if found is not None:
            self._look_at_starvation(watched, found)
            watched.rss_bytes = found.rss_bytes
            fault = detectors.memory_growth(found.rss_bytes, watched.rss_at_start, self._settings)
            if fault is not None:
                self._ground.fail(worker, fault, Evidence(fault=fault))

    def _look_at_starvation(self, watched: _Watched, found: ProcessSample) -> None:
        now = self._ground.now_ms()
        if watched.seen is not None:
            then, before = watched.seen
            if waited_ms(before, found, now - then) > STARVED_RATIO * (now - then):
                watched.starved_ms = now
        watched.seen = now, found

    def _look_at_pace(self, worker: Worker, workers: list[Worker]) -> None:
        """Compare a worker's canaries, always the same work, with its first ones and with the other side's."""
        watched = self._watched[worker]
        times = watched.answers.probes_ms
        if watched.baseline is None:
            if len(times) >= detectors.SAMPLES_MIN:
                ordered = sorted(times)
                watched.baseline = Baseline(ordered[len(ordered) // 2], ordered[-1])
            return
        if self._ground.now_ms() < watched.starved_ms + STARVED_FOR_MS:
            return  # its canaries waited for a processor: that is no fault of its own
        others = [self._watched[one] for one in workers if one.seat.role is not worker.seat.role and one.usable]
        other = next((one for one in others if one.baseline is not None), None)
        theirs = ((), None) if other is None else (other.answers.probes_ms, other.baseline)
        fault = detectors.latency_shift(times, watched.baseline, *theirs)
        if fault is not None:
            median = sorted(times)[len(times) // 2]
            said = f"canaries take {median:.1f} ms where they took {watched.baseline.p50_ms:.1f} ms"
            sound = True if other else None
            self._ground.fail(worker, fault, Evidence(fault=fault, other_side_ok=sound, errors=(said,)))

    def _scrubbed(self, worker: Worker, ok: bool, sentence: str) -> None:
        if not ok and worker.usable:
            evidence = Evidence(fault=Fault.CORRUPT_WEIGHTS, memory_bytes_ok=False, errors=(sentence,))
            self._ground.fail(worker, Fault.CORRUPT_WEIGHTS, evidence)

    # What answers say.

    def took(self, worker: Worker, request_id: int, outputs: Mapping[str, Array] | None, error: str) -> bool:
        """Take an answer if it is one to a canary or a shadow; returns whether it was."""
        if outputs is not None:
            self._paces.answered(worker, outputs, worker.engine_ms)
        if request_id in self._shadows:
            self._compare(self._shadows.pop(request_id)[1], outputs)
            return True
        watched = self._watched.get(worker)
        if watched is None or watched.probe is None or watched.probe[0] != request_id:
            return False
        (_, turn, sent_ms), watched.probe = watched.probe, None
        self._canary(worker, watched, self._ground.now_ms() - sent_ms, turn, outputs, error)
        return True

    def _canary(
        self, worker: Worker, watched: _Watched, took_ms: float, turn: int,
        outputs: Mapping[str, Array] | None, error: str,
    ) -> None:  # fmt: skip
        spoiled = None if outputs is None else self._spoiled(worker, watched, turn, outputs)
        problem = error if outputs is None else spoiled or watched.canaries.check(turn, outputs)
        matches = None if outputs is None else problem is None
        watched.answers, fault = watched.answers.on_canary(took_ms, matches, self._settings)
        if fault is not None:
            fault = Fault.BAD_OUTPUT if spoiled else fault
            self._ground.fail(worker, fault, Evidence(fault=fault, canary_ok=False, errors=(problem or "",)))
        elif matches:
            self._ground.probed(worker)

    def _spoiled(self, worker: Worker, watched: _Watched, turn: int, outputs: Mapping[str, Array]) -> str | None:
        """Return what is wrong with an answer's form: that is the engine's doing, not that of weights gone bad."""
        rows = len(next(iter(watched.canaries.inputs(turn).values())))
        return self._guards[worker.seat.role].check(outputs, rows)

    def shadow(self, inputs: Mapping[str, Array], released: Answer) -> None:
        """Have the other side answer a request too, if it is this one's turn."""
        if not self._shadowing.is_due():
            return
        others = [worker for worker in self._ground.ready_workers() if worker.seat.role is not released.role]
        if others:
            request_id = next(self._ids)
            self._shadows[request_id] = (others[0], released.outputs)
            others[0].infer(request_id, self._ground.term, inputs, self._ground.now_ms())

    def _compare(self, released: Mapping[str, Array], shadow: Mapping[str, Array] | None) -> None:
        problem = None if shadow is None else self._shadowing.compare(released, shadow)
        if problem is not None:
            self._ground.doubt(problem)

    def good(self, worker: Worker) -> None:
        """Take that a worker answered well."""
        if (watched := self._watched.get(worker)) is not None:
            watched.answers = watched.answers.on_good()

    def blame(self, worker: Worker, fault: Fault, problem: str, other_ok: bool | None) -> None:
        """Take that a worker failed; a few times at what another could answer is a fault of its own."""
        watched = self._watched.get(worker)
        if watched is None or not worker.usable:
            return
        watched.answers, found = watched.answers.on_bad(fault, other_ok, self._settings)
        watched.next_probe_ms = 0.0  # ask a question whose answer is known
        if found is not None:
            self._ground.fail(worker, found, Evidence(fault=found, other_side_ok=True, errors=(problem,)))

    def ended(self, exit_status: int | None, suspects: int, nonsense: str | None) -> Evidence:
        """Return what is known of how a worker ended."""
        starved = self._oom.take() if nonsense is None and _may_be_the_kernels(exit_status) else None
        killed = Fault.OUT_OF_MEMORY if starved else Fault.KILLED
        fault = Fault.CRASH if ended_by_itself(exit_status) else killed
        seen = Evidence(fault=fault, exit_status=exit_status, suspects=suspects, oom_kills_delta=starved)
        return seen if nonsense is None else replace(seen, nonsense=nonsense)

    # Hedges.

    def hedge_after(self) -> float:
        """Return how long a new request waits before another member is asked too; never, when hedges got too many."""
        self._budget = self._budget.on_request()
        return self._hedge_after_ms if self._budget.allows else float("inf")

    def hedged(self) -> None:
        """Count a hedge."""
        self._budget = self._budget.on_hedge()


def ended_by_itself(exit_status: int | None) -> bool:
    """Tell whether a worker's end may be the fault of what it computed: not when somebody killed it."""
    if exit_status is None:
        return True
    return not (os.WIFSIGNALED(exit_status) and os.WTERMSIG(exit_status) in (signal.SIGKILL, signal.SIGTERM))


def _may_be_the_kernels(exit_status: int | None) -> bool:
    """Tell whether the kernel may have killed for want of memory who ended so: it sends SIGKILL and nothing else."""
    return exit_status is None or (os.WIFSIGNALED(exit_status) and os.WTERMSIG(exit_status) == signal.SIGKILL)
