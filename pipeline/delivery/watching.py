"""Following a depot for ever: stage each new release, have the running server move to it, tell lag and age.

Nothing is remembered beyond the process: what is staged and what is served is asked anew each round, so a round that
was killed or failed anywhere is made good by the next. Between the exchange of ``DIR/<model>`` and the swap a worker
that ends cannot come back (another bundle lies there); the swap follows the exchange at once, and is asked for again
until what is served is what is staged.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from pipeline.bundle.channel import Channel
from pipeline.core.clock import to_text
from pipeline.core.errors import HotspareError, Refusal
from pipeline.delivery.staging import Staged

FIRST_WAIT_S = 1.0
LONGEST_WAIT = 4  # times the usual one
_SPREAD = 0.2  # of the usual wait: nodes that were started together do not ask together for ever

Place = tuple[int, int]  # epoch and seq


class Served(Protocol):
    """The running server, as far as a follower needs it; both raise HotspareError."""

    def place(self) -> Place:
        """Return the place of the channel that it serves under."""

    def swap(self) -> None:
        """Have it move to what is staged; returns when it has."""


@dataclass(frozen=True)
class Progress:
    """What a follower knows from round to round: for its words and its waits alone."""

    failures: int = 0  # rounds in a row
    failing_since: datetime | None = None
    told: Place | None = None  # the last that was told to be served


@dataclass(frozen=True)
class Follower:
    """One model's follower: ``fetch`` stages, ``staged`` tells what lies there, ``log`` takes records for machines."""

    model: str
    fetch: Callable[[], Staged]
    staged: Callable[[], Channel | None]
    served: Served | None
    every_s: float
    now: Callable[[], datetime]
    draw: Callable[[], float]  # 0 to 1
    log: Callable[[Mapping[str, object]], None]

    def follow(self, wait: Callable[[float], None]) -> None:
        """Go on for ever."""
        self._say("watching", every_s=self.every_s)
        progress = Progress()
        while True:
            progress, wait_s = self.round(progress)
            wait(wait_s)

    def round(self, before: Progress) -> tuple[Progress, float]:
        """Stage what is new, have it served; returns what is known then, and how many seconds to wait."""
        failed: dict[str, HotspareError] = {}
        try:
            self._stage()
        except HotspareError as error:
            failed["stage"] = error
        told = before.told
        try:
            told = self._bring_up(before.told)  # also when the depot is away: the last swap may have failed
        except HotspareError as error:
            failed["swap"] = error
        return self._rounded(replace(before, told=told), failed)

    def _rounded(self, before: Progress, failed: Mapping[str, HotspareError]) -> tuple[Progress, float]:
        failures = before.failures + 1 if failed else 0
        wait_s = wait_after(failures, self.every_s, self.draw())
        for step, error in failed.items():
            why = {"step": step, "error": type(error).__name__, "why": str(error)}
            self._say("failed", **why, failures=failures, again_in_s=round(wait_s, 1))
        if not failed and before.failing_since is not None:
            self._say("well again", failures=before.failures, after_s=_seconds(self.now() - before.failing_since))
        since = None if not failed else before.failing_since or self.now()
        return replace(before, failures=failures, failing_since=since), wait_s

    def _stage(self) -> None:
        before, began = self.staged(), self.now()
        found = self.fetch()
        if found.was_current:
            return
        self._say(
            "staged",
            versions_skipped=skipped(None if before is None else (before.epoch, before.seq), (found.epoch, found.seq)),
            bytes_moved=found.bytes_moved,
            bytes_total=found.bytes_total,
            chunks_moved=found.chunks_moved,
            took_s=_seconds(self.now() - began),
        )

    def _bring_up(self, told: Place | None) -> Place | None:
        """Have the server serve what is staged; returns what it serves, once that was told."""
        channel = self.staged()
        if self.served is None or channel is None:
            return told
        place, before = (channel.epoch, channel.seq), self.served.place()
        if before >= place:
            if before != told:
                self._say("serving", served_epoch=before[0], served_seq=before[1])
            return before
        began = self.now()
        self.served.swap()
        after = self.served.place()
        if after < place:
            raise Refusal(f"The server took the order and serves seq {after[1]} still; does it serve what is staged?")
        lag_s, took_s = _seconds(self.now() - channel.dates.issued_at), _seconds(self.now() - began)
        self._say("swapped", lag_s=lag_s, versions_skipped=skipped(before, place), took_s=took_s)
        return after

    def _say(self, event: str, **facts: object) -> None:
        """Log an event, with what is staged and how old it is."""
        now = self.now()
        self.log({"at": to_text(now), "event": event, "model": self.model, **self._age(now), **facts})

    def _age(self, now: datetime) -> dict[str, object]:
        try:
            channel = self.staged()
        except HotspareError:  # the policy cannot be read: that is told by the step that needs it
            channel = None
        if channel is None:
            return {"seq": None}
        return {
            "epoch": channel.epoch,
            "seq": channel.seq,
            "issued_at": channel.issued_at,
            "age_s": _seconds(now - channel.dates.issued_at),
            "expires_in_s": _seconds(channel.dates.not_after - now),
        }


def wait_after(failures: int, every_s: float, draw: float) -> float:
    """Return how many seconds to wait after so many failed rounds in a row; ``draw`` (0 to 1) spreads nodes apart.

    Doubled after each failure, from a second to four times the usual wait; then a random half of it more or less.
    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    if not failures:
        return every_s * (1 + _SPREAD * (draw - 0.5))
    longest_s = LONGEST_WAIT * every_s
    doublings = min(failures - 1, 32)
    return min(longest_s, min(FIRST_WAIT_S, every_s) * 2.0**doublings) * (0.5 + draw)


def skipped(before: Place | None, after: Place) -> int:
    """Return how many versions were never here between two that were; of an earlier epoch none are counted."""
    if before is None or before[0] != after[0]:
        return 0
    return max(0, after[1] - before[1] - 1)


def _seconds(span: timedelta) -> float:
    return round(span.total_seconds(), 1)
