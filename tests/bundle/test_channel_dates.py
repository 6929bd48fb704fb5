"""A channel's dates: where a moment lies, and what a node does past the end."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealed import NOW, Sealed, tiny_channel, write_channel

from pipeline.bundle.channel import Dates, Expiry, Standing, check_dates
from pipeline.bundle.policy import load_policy, parse_policy
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.core.clock import from_text
from pipeline.core.errors import Expired, Tampered, TrustPolicyError
from pipeline.core.names import Role

ENDED = tiny_channel(
    issued_at="2026-05-01T00:00:00Z", refresh_by="2026-05-02T00:00:00Z", not_after="2026-05-03T00:00:00Z"
)
MOMENTS = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


def lenient(pair: Sealed) -> None:
    pair.trust.write_text(pair.trust.read_text() + "expired: serve-and-alarm\n")


@given(moments=st.lists(MOMENTS, min_size=3, max_size=3).map(sorted), now=MOMENTS)
def test_the_standing_only_grows_older_and_each_last_second_still_counts(
    moments: list[datetime], now: datetime
) -> None:
    dates = Dates(*moments)
    order = list(Standing)
    assert order.index(dates.standing(now)) <= order.index(dates.standing(now + timedelta(seconds=1)))
    assert dates.standing(dates.not_after) is not Standing.EXPIRED
    assert dates.standing(dates.refresh_by) is Standing.CURRENT
    assert dates.standing(dates.not_after + timedelta(microseconds=1)) is Standing.EXPIRED


def test_past_its_end_a_channel_is_refused_unless_the_policy_lets_it_serve_on() -> None:
    with pytest.raises(Expired, match="ended at 2026-05-03"):
        check_dates(ENDED, NOW)
    (warning,) = check_dates(ENDED, NOW, Expiry.SERVE_AND_ALARM)
    assert "serves on" in warning
    (warning,) = check_dates(ENDED, from_text("2026-05-02T12:00:00Z"), Expiry.SERVE_AND_ALARM)
    assert "to be renewed by" in warning


def test_a_policy_that_says_nothing_refuses_and_one_that_says_anything_else_is_wrong(pair: Sealed) -> None:
    assert load_policy(pair.trust).expired is Expiry.REFUSE
    with pytest.raises(TrustPolicyError, match=r"expired: .*refuse, serve-and-alarm"):
        parse_policy(pair.trust.read_bytes() + b"expired: ignore\n", "trust.yaml")


def test_bundles_under_an_expired_channel_are_verified_only_where_the_policy_serves_on(pair: Sealed) -> None:
    write_channel(pair.channel, ENDED, pair.key)
    with pytest.raises(Expired):
        load_channel(pair.channel, load_policy(pair.trust), NOW)
    lenient(pair)
    policy = load_policy(pair.trust)
    channel = load_channel(pair.channel, policy, NOW)
    bundle = verify_bundle(pair.backup, policy, NOW, channel, Role.BACKUP)
    assert "serves on" in bundle.warnings[0]


def test_serving_on_accepts_nothing_else_that_a_channel_forbids(pair: Sealed) -> None:
    lenient(pair)
    policy = load_policy(pair.trust)
    write_channel(pair.channel, ENDED, pair.key)
    channel = load_channel(pair.channel, policy, NOW)
    model = next(pair.backup.rglob("model.*"))
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    with pytest.raises(Tampered):
        verify_bundle(pair.backup, policy, NOW, channel, Role.BACKUP)
