from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.clock import from_text, to_text
from pipeline.registry.freezing import Freeze

CHRISTMAS = Freeze("2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z", "the end of the year")
WEEKEND = Freeze("Fri 16:00", "Mon 06:00", "nobody is here")


@pytest.mark.parametrize(
    ("freeze", "now", "ends"),
    [
        (CHRISTMAS, "2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z"),
        (CHRISTMAS, "2027-01-01T23:59:59Z", "2027-01-02T00:00:00Z"),
        (CHRISTMAS, "2027-01-02T00:00:00Z", None),
        (CHRISTMAS, "2026-12-19T23:59:59Z", None),
        (WEEKEND, "2026-11-20T15:59:59Z", None),
        (WEEKEND, "2026-11-20T16:00:00Z", "2026-11-23T06:00:00Z"),
        (WEEKEND, "2026-11-22T12:00:00Z", "2026-11-23T06:00:00Z"),
        (WEEKEND, "2026-11-23T05:59:59Z", "2026-11-23T06:00:00Z"),
        (WEEKEND, "2026-11-23T06:00:00Z", None),
        (Freeze("Tue 09:00", "Tue 17:00", "the fair"), "2026-11-24T16:59:59Z", "2026-11-24T17:00:00Z"),
        (Freeze("Tue 09:00", "Tue 17:00", "the fair"), "2026-11-25T12:00:00Z", None),
    ],
)
def test_a_freeze_holds_from_its_beginning_to_before_its_end(freeze: Freeze, now: str, ends: str | None) -> None:
    moment = freeze.ends_at(from_text(now))
    assert (None if moment is None else to_text(moment)) == ends


@given(
    since=st.integers(0, 7 * 1440 - 1),
    minutes=st.integers(1, 7 * 1440 - 1),
    now=st.integers(0, 5 * 7 * 1440),
)
def test_a_weekly_freeze_is_what_counting_every_minute_says(since: int, minutes: int, now: int) -> None:
    monday = datetime(2026, 11, 2, tzinfo=UTC)
    freeze = Freeze(_of_week(since), _of_week((since + minutes) % (7 * 1440)), "because")
    left = next((one for one in range(7 * 1440 + 1) if (now + one - since) % (7 * 1440) >= minutes), 0)
    ends = freeze.ends_at(monday + timedelta(minutes=now))
    assert ends == (monday + timedelta(minutes=now + left) if left else None)


def _of_week(minute: int) -> str:
    day, rest = divmod(minute, 1440)
    return f"{('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun')[day]} {rest // 60:02}:{rest % 60:02}"
