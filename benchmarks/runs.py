"""One line a run: what the failover benchmark keeps, so that it can go on where it was ended."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.schema import SchemaProblems, read
from pipeline.drill.live.judging import Tally


@dataclass(frozen=True)
class Run:
    """What one run showed; times in ms after the fault; ``components`` and ``faults``: what was diagnosed, in order."""

    made_of: str
    system: str
    case: str
    seed: int
    injected_ms: float
    tally: Tally
    evicted_ms: float | None = None
    evictions: int = 0
    components: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    failovers: int = 0
    redundancy_ms: float | None = None
    steady_hedges: int = 0  # from a little after the fault on
    steady_sent: int = 0
    changed_ratio: float | None = None
    registry_asked: int | None = None
    false_alarms: int = 0  # diagnoses and failovers before anything was done
    tracebacks: int = 0  # in the server's log
    skipped: str = ""  # why it could not be done here
    broken: str = ""  # why it could not be brought to its end: counts against the system


def known_runs(path: Path, made_of: str) -> list[Run]:
    """Read the runs of an earlier call that are made of the same; half a line at the end is forgotten.

    So is what was left out, which may be possible now; a run that broke stays, and counts.
    """
    lines = path.read_text().splitlines() if path.exists() else []
    runs = []
    for line in lines:
        with contextlib.suppress(ValueError, SchemaProblems):
            runs.append(read(Run, json.loads(line)))
    return [run for run in runs if run.made_of == made_of and not run.skipped]


def in_words(run: Run) -> str:
    """Tell a run in a line."""
    if run.skipped:
        return f"{run.case} {run.system} {run.seed}: left out: {run.skipped}"
    if run.broken:
        return f"{run.case} {run.system} {run.seed}: broken: {run.broken}"
    seen = run.tally
    evicted = "not evicted" if run.evicted_ms is None else f"evicted after {run.evicted_ms:.0f} ms"
    named = ", ".join(run.components) or "nothing named"
    return (
        f"{run.case} {run.system} {run.seed}: lost {seen.lost}/{seen.sent} wrong {seen.wrong} "
        f"abstained {seen.abstained} worst {seen.worst_ms:.0f} ms, "
        f"{evicted}, {named} {dict(seen.errors) or ''}"
    )
