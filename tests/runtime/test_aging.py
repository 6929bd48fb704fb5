"""What a channel's age means for a pair, decided purely."""

from datetime import timedelta

import pytest
from sealed import tiny_channel

from pipeline.bundle.channel import Expiry, Standing
from pipeline.core.clock import from_text
from pipeline.runtime.aging import channel_status, closed, happening
from pipeline.runtime.members import Component
from pipeline.runtime.pair_nouns import NoteKind
from pipeline.runtime.service import RefusalKind

CHANNEL = tiny_channel(
    issued_at="2026-06-01T00:00:00Z", refresh_by="2026-06-02T00:00:00Z", not_after="2026-06-03T00:00:00Z"
)


@pytest.mark.parametrize("standing", Standing)
@pytest.mark.parametrize("expired", Expiry)
def test_only_an_expired_channel_under_a_policy_that_refuses_closes_the_door(
    standing: Standing, expired: Expiry
) -> None:
    refused = closed(CHANNEL, standing, expired)
    assert (refused is not None) == (standing is Standing.EXPIRED and expired is Expiry.REFUSE)
    assert refused is None or (refused.kind is RefusalKind.EXPIRED and CHANNEL.not_after in refused.sentence)


def test_an_end_is_told_with_the_dependency_that_did_not_renew_it_and_what_happens_now() -> None:
    refusing, serving = (happening(CHANNEL, Standing.EXPIRED, one) for one in Expiry)
    for told in (refusing, serving):
        assert told.diagnosis is not None
        assert told.diagnosis.component is Component.DEPENDENCY
        assert "not renewed" in told.diagnosis.evidence[0]
    assert "refused" in refusing.text
    assert "serves on" in serving.text


def test_a_due_renewal_is_a_warning_without_a_fault() -> None:
    told = happening(CHANNEL, Standing.DUE, Expiry.REFUSE)
    assert (told.kind, told.diagnosis) == (NoteKind.CHANNEL_DUE, None)
    assert CHANNEL.refresh_by in told.text and CHANNEL.not_after in told.text


@pytest.mark.parametrize(
    ("at", "age_s", "refresh_in_s", "expires_in_s", "is_due", "is_expired"),
    [
        ("2026-06-01T00:01:00Z", 60, 86340, 172740, False, False),
        ("2026-06-02T00:00:10Z", 86410, -10, 86390, True, False),
        ("2026-06-03T00:00:01Z", 172801, -86401, -1, True, True),
        ("2026-05-31T23:59:00Z", -60, 86460, 172860, False, False),
    ],
)
def test_the_figures_count_from_the_dates(
    at: str, age_s: int, refresh_in_s: int, expires_in_s: int, is_due: bool, is_expired: bool
) -> None:
    found = channel_status(CHANNEL, Expiry.REFUSE, from_text(at))
    assert (found.age_s, found.refresh_in_s, found.expires_in_s) == (age_s, refresh_in_s, expires_in_s)
    assert (found.is_due, found.is_expired) == (is_due, is_expired)
    assert (found.epoch, found.seq, found.issued_at) == (CHANNEL.epoch, CHANNEL.seq, CHANNEL.issued_at)


def test_within_the_second_after_its_end_the_figures_say_so_too() -> None:
    found = channel_status(CHANNEL, Expiry.REFUSE, from_text(CHANNEL.not_after) + timedelta(milliseconds=1))
    assert found.is_expired
    assert found.expires_in_s < 0
