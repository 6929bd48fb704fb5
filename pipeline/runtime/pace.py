"""How long workers' engines take for what they are asked: a slow one is noticed within a few answers.

Canaries tell it too, but behind a slow worker's queue they come back when requests have been lost. Only models whose
rows are all of one size are judged: elsewhere a longer answer may be a longer question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pipeline.core.tensors import Array
from pipeline.runtime.crew import Worker
from pipeline.runtime.debts import look_at
from pipeline.runtime.detectors import Drag, drags_above_ms
from pipeline.runtime.diagnosis import Evidence
from pipeline.runtime.members import Fault
from pipeline.runtime.procfs import waited_ms

STARVED_RATIO = 0.1  # a worker that waits for a processor for so much of a time is not judged by its pace


class Judge(Protocol):
    """Who is told whose fault it is."""

    def now_ms(self) -> float:
        """Return monotonic milliseconds."""

    def fail(self, worker: Worker, fault: Fault, evidence: Evidence) -> None:
        """Hear what is wrong with a worker."""


@dataclass
class _Pace:
    """One worker: what one row takes, and how its last answers went."""

    row_ms: float
    reshaping_ms: float  # beside that, after another number of rows
    rows: int = 0  # of the last answer
    drag: Drag | None = None  # while answers are slow


class Paces:
    """The paces of one pair's workers."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._paces: dict[Worker, _Pace] = {}

    def begin(self, worker: Worker) -> None:
        """Watch a worker that has just measured its own baseline."""
        if worker.facts is not None:
            row_ms, reshaped_ms = worker.facts.p50_ms, worker.facts.reshaped_ms
            self._paces[worker] = _Pace(row_ms, max(reshaped_ms - row_ms, 0.0))

    def forget(self, workers: Sequence[Worker]) -> None:
        """Watch these no longer."""
        for worker in workers:
            self._paces.pop(worker, None)

    def answered(self, worker: Worker, outputs: Mapping[str, Array], engine_ms: float) -> None:
        """Take an answer of any kind; the guards have not seen it yet."""
        pace = self._paces.get(worker)
        if pace is None or not outputs:
            return
        rows = (*next(iter(outputs.values())).shape, 0)[0]
        expected_ms = pace.row_ms * rows + (pace.reshaping_ms if rows != pace.rows else 0.0)
        pace.rows = rows
        if engine_ms <= drags_above_ms(expected_ms):
            pace.drag = None
        elif pace.drag is None:
            pace.drag = Drag(self._judge.now_ms(), look_at(worker))
        else:
            pace.drag = replace(pace.drag, answers=pace.drag.answers + 1, engine_ms=pace.drag.engine_ms + engine_ms)
            if pace.drag.is_proven:
                self._proven(worker, pace.drag)
                pace.drag = None

    def _proven(self, worker: Worker, drag: Drag) -> None:
        """Blame a worker that drags, unless it had no processor, or nobody does better: then the machine is slow."""
        found, elapsed = look_at(worker), self._judge.now_ms() - drag.since_ms
        if drag.then is None or found is None or not self._other_is_sound(worker):
            return
        waited = waited_ms(drag.then, found, elapsed)
        if waited > STARVED_RATIO * elapsed:
            return
        each = drag.engine_ms / drag.answers
        usual = 0.0 if worker.facts is None else worker.facts.p50_ms
        said = f"{drag.answers} answers in a row took its engine {each:.1f} ms each, where a row takes {usual:.1f} ms"
        evidence = Evidence(fault=Fault.SLOW, runqueue_wait_ms=waited, other_side_ok=True, errors=(said,))
        self._judge.fail(worker, Fault.SLOW, evidence)

    def _other_is_sound(self, worker: Worker) -> bool:
        others = [(one, pace) for one, pace in self._paces.items() if one.seat.role is not worker.seat.role]
        return any(one.usable and pace.rows and pace.drag is None for one, pace in others)
