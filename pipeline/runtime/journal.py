"""What a pair remembers for people: a timeline, counters, and recent answer times."""

import json
import math
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from pipeline.core.clock import to_text, utc_now
from pipeline.core.printable import printable
from pipeline.runtime.members import Diagnosis
from pipeline.runtime.pair_nouns import NoteKind
from pipeline.runtime.service import Counters, RefusalKind, TimelineEvent

_EVENTS_KEPT = 200
_SECONDS_KEPT = 300
_RECENT = 512

Log = Callable[[Mapping[str, object]], None]


def log_line(record: Mapping[str, object]) -> None:
    """Write one record as a line of JSON on stderr."""
    print(json.dumps({"at": to_text(utc_now()), **record}, ensure_ascii=False), file=sys.stderr, flush=True)


@dataclass
class Tally:
    """The counters while they count."""

    answered: int = 0
    degraded: int = 0
    hedges: int = 0
    resent: int = 0
    guarded: int = 0
    failovers: int = 0
    failbacks: int = 0
    restarts: int = 0
    refused: Counter[RefusalKind] = field(default_factory=Counter)

    def snapshot(self) -> Counters:
        """Return the counts as they are now."""
        counts = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "refused"}
        return Counters(**counts, refused=dict(self.refused))


class Journal:
    """One pair's timeline and figures; every event is a log line too."""

    def __init__(self, model: str, log: Log = log_line) -> None:
        self.tally = Tally()
        self._model = model
        self._log = log
        self._events: deque[TimelineEvent] = deque(maxlen=_EVENTS_KEPT)
        self._seconds: deque[tuple[int, float, float]] = deque(maxlen=_SECONDS_KEPT)
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._second = 0
        self._samples: list[float] = []

    def note(self, text: str, diagnosis: Diagnosis | None = None, kind: NoteKind | None = None) -> None:
        """Put an event on the timeline and into the log, where ``kind`` says to programs what it is about."""
        text = printable(text)
        if diagnosis is not None:
            diagnosis = replace(diagnosis, evidence=tuple(map(printable, diagnosis.evidence)))
        self._events.append(TimelineEvent(utc_now(), text, diagnosis))
        about: dict[str, object] = {} if kind is None else {"kind": kind}
        self._log({"model": self._model, "event": text, **about, **({} if diagnosis is None else _told(diagnosis))})

    def answered(self, took_ms: float, hedged: bool) -> None:
        """Count one answer and its time at the router."""
        self.tally.answered += 1
        if not hedged:
            self._recent.append(took_ms)
        second = int(time.time())
        if second != self._second:
            self._close_second()
            self._second = second
        self._samples.append(took_ms)

    def _close_second(self) -> None:
        if self._samples:
            ordered = sorted(self._samples)
            self._seconds.append((self._second, quantile(ordered, 0.5), quantile(ordered, 0.99)))
            self._samples = []

    @property
    def recent_ms(self) -> tuple[float, ...]:
        """Return the last answer times of requests that nobody was hedged for, oldest first."""
        return tuple(self._recent)

    @property
    def timeline(self) -> tuple[TimelineEvent, ...]:
        """Return the last events, newest last."""
        return tuple(self._events)

    @property
    def latency_ms(self) -> tuple[tuple[int, float, float], ...]:
        """Return (second, p50, p99) of the last seconds with answers."""
        return tuple(self._seconds)


def quantile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank quantile, ``share`` over 0 and at most 1, of a sorted list that is not empty."""
    return ordered[math.ceil(share * len(ordered)) - 1]


def _told(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "fault": diagnosis.fault,
        "component": diagnosis.component,
        "seat": None if diagnosis.seat is None else str(diagnosis.seat),
        "evidence": list(diagnosis.evidence),
        "confidence": diagnosis.confidence,
        "advice": diagnosis.advice,
    }
