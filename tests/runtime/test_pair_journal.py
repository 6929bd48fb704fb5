import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.names import Role
from pipeline.runtime import journal as room
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.journal import Journal, Tally, quantile
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.pair_nouns import NoteKind
from pipeline.runtime.service import RefusalKind


@pytest.fixture
def told() -> list:
    return []


def test_every_event_is_a_log_line_and_only_the_last_are_kept_in_memory(told) -> None:
    journal = Journal("tiny", told.append)
    for number in range(500):
        journal.note(f"event {number}")
    assert len(told) == 500
    assert len(journal.timeline) < 500
    assert journal.timeline[-1].text == "event 499"
    assert told[7] == {"model": "tiny", "event": "event 7"}


def test_a_diagnosis_is_told_in_plain_words_that_are_json(told) -> None:
    journal = Journal("tiny", told.append)
    journal.note("it failed", diagnose(Seat(Role.BACKUP), Evidence(Fault.STOPPED)))
    assert json.loads(json.dumps(told[0]))["seat"] == "backup-0"
    assert told[0]["component"] == "process"
    assert journal.timeline[0].diagnosis is not None


def test_programs_are_told_what_a_note_is_about(told) -> None:
    Journal("tiny", told.append).note("nobody serves: no member is ready", kind=NoteKind.OUTAGE)
    assert json.loads(json.dumps(told[0]))["kind"] == "outage"


@given(times=st.lists(st.floats(0, 1e4), min_size=1, max_size=50), second=st.integers(1, 9))
def test_quantiles_are_among_the_times_and_in_order(times, second) -> None:
    ordered = sorted(times)
    half, most = quantile(ordered, 0.5), quantile(ordered, 0.99)
    assert half in times
    assert ordered[0] <= half <= most <= ordered[-1]


@given(times=st.lists(st.floats(0, 1e4), min_size=1, max_size=120), percent=st.sampled_from((50, 95, 99)))
def test_a_quantile_is_the_least_time_that_its_share_of_all_does_not_exceed(times: list[float], percent: int) -> None:
    found = quantile(sorted(times), percent / 100)
    least = next(one for one in sorted(times) if 100 * sum(other <= one for other in times) >= percent * len(times))
    assert found == least


def test_a_second_is_closed_when_the_next_begins_and_only_minutes_are_kept(told, monkeypatch) -> None:
    now = 1000.0
    monkeypatch.setattr(room.time, "time", lambda: now)
    journal = Journal("tiny", told.append)
    for number in range(700):
        now = 1000.0 + number
        journal.answered(5.0, hedged=False)
        journal.answered(7.0, hedged=True)
    assert journal.tally.answered == 1400
    assert len(journal.latency_ms) == 300
    assert journal.latency_ms[-1] == (1698, 5.0, 7.0)
    assert set(journal.recent_ms) == {5.0}  # hedged answers say nothing of how long one worker takes


def test_a_snapshot_does_not_change_with_what_is_counted_later() -> None:
    tally = Tally()
    tally.refused[RefusalKind.POISON] += 1
    before = tally.snapshot()
    tally.refused[RefusalKind.POISON] += 1
    tally.hedges += 1
    assert (before.refused, before.hedges) == ({RefusalKind.POISON: 1}, 0)
