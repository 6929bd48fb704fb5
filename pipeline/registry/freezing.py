"""Times in which nothing is promoted, pure: from one moment to another, or every week."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pipeline.core.clock import from_text
from pipeline.core.schema import Rule

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WEEKLY = re.compile(rf"({'|'.join(_DAYS)}) ([01][0-9]|2[0-3]):([0-5][0-9])")
_WEEK = timedelta(days=7)
_MOMENT = "UTC, e.g. 2026-12-24T00:00:00Z, or of every week, e.g. Fri 16:00."


@dataclass(frozen=True)
class Freeze:
    """One freeze: ``since`` belongs to it, ``until`` does not. Both are moments, or both are times of the week."""

    since: Annotated[str, Rule(_MOMENT)]
    until: Annotated[str, Rule(_MOMENT)]
    why: Annotated[str, Rule("What a refused promotion is told.", pattern=r"\S.*")]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        weekly = [_WEEKLY.fullmatch(text) is not None for text in (self.since, self.until)]
        if all(weekly):
            if self.since == self.until:
                yield "until: the same time of the week as since"
        elif any(weekly):
            yield "since, until: one is a moment and the other a time of the week; use two of a kind"
        else:
            yield from self._problems_of_moments()

    def _problems_of_moments(self) -> Iterator[str]:
        try:
            if from_text(self.until) <= from_text(self.since):
                yield "until: not after since"
        except ValueError:
            yield "since, until: neither UTC moments such as 2026-12-24T00:00:00Z nor times such as Fri 16:00"

    def ends_at(self, now: datetime) -> datetime | None:
        """Return when the freeze that holds ``now`` ends, or None when none does."""
        if _WEEKLY.fullmatch(self.since):
            return self._ends_this_week(now.astimezone(UTC))
        until = from_text(self.until)
        return until if from_text(self.since) <= now < until else None

    def _ends_this_week(self, now: datetime) -> datetime | None:
        length = (_into_week(self.until) - _into_week(self.since)) % _WEEK
        monday = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=now.weekday())
        passed = (now - monday - _into_week(self.since)) % _WEEK
        return now - passed + length if passed < length else None


def _into_week(text: str) -> timedelta:
    day, clock = text.split(" ")
    hours, minutes = clock.split(":")
    return timedelta(days=_DAYS.index(day), hours=int(hours), minutes=int(minutes))
