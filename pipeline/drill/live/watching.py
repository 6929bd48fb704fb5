"""What a pair shows while it is drilled: its log as moments, who serves, and what its processes take."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.drill.live.launching import Seen
from pipeline.drill.nouns import Moment, MomentKind
from pipeline.drill.told import Served, told_moment, told_served
from pipeline.runtime.procfs import sample

_EVERY_S = 0.2
_READ_LATE_S = 0.5  # a log line that was read later than this after its stamp was not stamped by this clock


def at_s(seen: Seen, wall_ahead_s: float) -> float:
    """Return when a record was made, by ``time.monotonic()``: by its stamp, or where that is not plausible, when read.

    ``wall_ahead_s`` is how far ``time.time()`` is ahead of the monotonic clock.
    """
    try:
        stamped_s = datetime.fromisoformat(str(seen.facts["at"])).timestamp() - wall_ahead_s
    except (KeyError, ValueError):
        return seen.at_s
    return stamped_s if 0 <= seen.at_s - stamped_s < _READ_LATE_S else seen.at_s


def moments_of(seen: Sequence[Seen], began_s: float) -> tuple[Moment, ...]:
    """Return a pair's events since the load began, in ms after that."""
    ahead_s = time.time() - time.monotonic()
    timed = ((1000 * (at_s(one, ahead_s) - began_s), one.facts) for one in seen if "model" in one.facts)
    return tuple(told_moment(at_ms, facts) for at_ms, facts in timed if at_ms >= 0)


def served_by(seen: Sequence[Seen], began_s: float, struck: Sequence[Moment]) -> tuple[Served, ...]:
    """Return who served since when; nobody does from a server's death until its successor says who.

    ``struck`` are the drill's own moments of killing the server.
    """
    ahead_s = time.time() - time.monotonic()
    told: list[Served] = []
    term = 0
    for one in seen:
        found = told_served(1000 * (at_s(one, ahead_s) - began_s), one.facts, term)
        if found is not None:
            told.append(found)
            term = found[2]
    before = [one for one in told if one[0] < 0]
    after = [one for one in told if one[0] >= 0]
    first: list[Served] = [(0.0, *before[-1][1:])] if before else []
    all_told = sorted([*first, *after], key=lambda one: one[0])
    for death in struck:
        last = [one for one in all_told if one[0] <= death.at_ms]
        all_told = sorted([*all_told, (death.at_ms, None, last[-1][2] if last else 0)], key=lambda one: one[0])
    return tuple(all_told)


def is_server_death(moment: Moment) -> bool:
    """Tell whether the drill killed the server then."""
    return moment.kind is MomentKind.STRUCK and moment.text == "server-death"


@dataclass
class Footprint:
    """What all processes of a pair took: memory at most and at first (pages counted once), processor time in all."""

    memory_mb: float = 0.0
    memory_rest_mb: float = 0.0
    cpu_s: float = 0.0
    seconds: float = 0.0
    _first_ms: dict[int, float] = field(default_factory=dict)
    _last_ms: dict[int, float] = field(default_factory=dict)

    @property
    def cpu_ratio(self) -> float:
        """Return the share of one processor, on average."""
        return self.cpu_s / self.seconds if self.seconds else 0.0

    def look(self, pids: Sequence[int], is_first: bool) -> None:
        """Take one look at every process; one that came later counts from its birth."""
        memory_kb = 0.0
        for pid in pids:
            found = sample(pid)
            if found is not None:
                self._first_ms.setdefault(pid, found.cpu_ms if is_first else 0.0)
                self._last_ms[pid] = found.cpu_ms
                memory_kb += _own_kb(pid, found.rss_bytes)
        self.memory_mb = max(self.memory_mb, memory_kb / 1024)
        if is_first:
            self.memory_rest_mb = memory_kb / 1024
        self.cpu_s = sum(last - self._first_ms[pid] for pid, last in self._last_ms.items()) / 1000


def _own_kb(pid: int, rss_bytes: int) -> float:
    """Return a process's share of memory, pages that several map divided among them; its resident size failing that."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return rss_bytes / 1024
    return float(next((line.split()[1] for line in lines if line.startswith("Pss:")), rss_bytes / 1024))


class Sampler:
    """Looks at a family of processes again and again, in a thread, from entering to leaving."""

    def __init__(self, family: Callable[[], Sequence[int]]) -> None:
        self.seen = Footprint()
        self._family = family
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._go, name="sampler", daemon=True)
        self._began_s = 0.0

    def __enter__(self) -> "Sampler":
        """Begin."""
        self._began_s = time.monotonic()
        self.seen.look(self._family(), is_first=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End with a last look."""
        self._ending.set()
        self._thread.join()

    def _go(self) -> None:
        is_over = False
        while not is_over:
            is_over = self._ending.wait(_EVERY_S)
            self.seen.look(self._family(), is_first=False)
            self.seen.seconds = time.monotonic() - self._began_s
