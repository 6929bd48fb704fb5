"""What workers owe: the answer each one is at, for how long, and whether that is its own fault."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.runtime import detectors
from pipeline.runtime.crew import Worker
from pipeline.runtime.diagnosis import Evidence
from pipeline.runtime.flights import Flights
from pipeline.runtime.members import Fault
from pipeline.runtime.procfs import ProcessSample, waited_ms
from pipeline.runtime.settings import Settings

BUSY_SHARE = 0.3  # of the time that an answer may take, spent computing: what else it waited for is no excuse


class Judge(Protocol):
    """Who is told whose fault it is."""

    def now_ms(self) -> float:
        """Return monotonic milliseconds."""

    def fail(self, worker: Worker, fault: Fault, evidence: Evidence) -> None:
        """Hear what is wrong with a worker."""


@dataclass(frozen=True)
class _Debt:
    """What a worker owes: the request, since when (corrected for the server's own lateness), and how it stood then."""

    request_id: int
    since_ms: float
    lag_ms: float
    then: ProcessSample | None = None
    then_ms: float = 0.0


class Debts:
    """The oldest answer that each worker owes."""

    def __init__(self, settings: Settings, ground: Judge, flights: Flights) -> None:
        self._settings = settings
        self._ground = ground
        self._flights = flights
        self._debts: dict[Worker, _Debt] = {}
        self._lag_ms = 0.0

    def forgive(self, lag_ms: float) -> None:
        """Take that the server itself was late by so much: nobody owes that."""
        self._lag_ms += lag_ms

    def judge(self, workers: Sequence[Worker], now: float, is_late: bool = False) -> None:
        """End who is overdue by its own fault; with ``is_late`` who was so at ``now``, which is a while ago."""
        self._debts = {worker: self._debt(worker) for worker in workers if worker.sent_ms}
        if not self._debts:
            return
        ages = {worker: self._age_ms(debt, now) for worker, debt in self._debts.items()}
        late = {worker: self._looked(worker) for worker, age in ages.items() if age >= self._settings.hedge_max_ms}
        # All are compared before the first is evicted: its requests are sent on then, and it holds none any more.
        stuck_with = {one: self._are_same(late[one], [late[two] for two in late if two is not one]) for one in late}
        for worker, debt in late.items():
            if worker.usable:
                self._overdue(worker, debt, ages[worker], stuck_with[worker], is_late)

    def _debt(self, worker: Worker) -> _Debt:
        oldest, known = next(iter(worker.sent_ms)), self._debts.get(worker)
        if known is not None and known.request_id == oldest:
            return known
        since = max(worker.sent_ms[oldest], worker.last_answer_ms)  # from when it could begin with it
        return _Debt(oldest, since, self._lag_ms)

    def _age_ms(self, debt: _Debt, now: float) -> float:
        return now - debt.since_ms - (self._lag_ms - debt.lag_ms)

    def _looked(self, worker: Worker) -> _Debt:
        if self._debts[worker].then is None:
            now = self._ground.now_ms()
            self._debts[worker] = replace(self._debts[worker], then=look_at(worker), then_ms=now)
        return self._debts[worker]

    def _are_same(self, debt: _Debt, others: list[_Debt]) -> bool | None:
        """Tell whether another one is late with the same request, or was; None: no other is late."""
        if self._flights.is_suspected(debt.request_id):
            return True
        return any(self._flights.is_same(debt.request_id, one.request_id) for one in others) if others else None

    def _overdue(self, worker: Worker, debt: _Debt, age: float, same: bool | None, is_late: bool) -> None:
        found = look_at(worker)
        if found is None or debt.then is None:
            return
        between = self._ground.now_ms() - debt.then_ms
        age = min(age, self._settings.hedge_max_ms + between)  # before the first look, nobody knows what it waited for
        waited = waited_ms(debt.then, found, between)
        expected = self._flights.rows_of(debt.request_id) * (worker.facts.p50_ms if worker.facts else 0.0)
        late, ran = same is False, found.cpu_ms - debt.then.cpu_ms
        limit = max(self._settings.evict_after_ms, detectors.LARGE_WORK_FACTOR * expected)
        if ran > BUSY_SHARE * limit and not is_late:  # else it may have run for others since, and answered them
            waited = 0.0  # it had processor time enough for far more than this request: it is busy with nothing
        fault = detectors.overdue(age, waited, found.state, self._settings, expected_ms=expected, other_late=late)
        if fault is None:
            return
        if fault is Fault.HANG:
            worker.suspects = {debt.request_id}
        evidence = Evidence(
            fault=fault,
            process_state=found.state,
            late_ms=age,
            runqueue_wait_ms=waited,
            cpu_ms=ran,
            other_side_ok=not late,
            same_request=bool(same),
            suspects=worker.load,
        )
        self._ground.fail(worker, fault, evidence)


def look_at(worker: Worker) -> ProcessSample | None:
    """Look at a worker's process; None when there is none."""
    return worker.look()
