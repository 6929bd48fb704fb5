from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.registry.channel_plan import Issue, Keep, plan_channel
from pipeline.registry.history import Standard
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import ChannelTerms

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PAIR = Pair("aa" * 32, "bb" * 32)
TERMS = ChannelTerms()


def test_the_first_promotion_takes_sequence_one_and_its_dates_from_the_terms() -> None:
    issue = plan_channel(TERMS, None, 0, PAIR, NOW)
    assert issue == Issue(1, 1, NOW, NOW + timedelta(days=30), NOW + timedelta(days=90), "promoted")


@given(channel_seq=st.integers(0, 2**40), registry_seq=st.integers(0, 2**40), epoch=st.integers(1, 9))
def test_a_sequence_number_is_never_used_twice_and_the_epoch_never_falls(
    channel_seq: int, registry_seq: int, epoch: int
) -> None:
    current = Standard(Pair("x", "y"), epoch, channel_seq, NOW)
    issue = plan_channel(replace(TERMS, epoch=3), current, registry_seq, PAIR, NOW)
    assert isinstance(issue, Issue)
    assert issue.seq == max(channel_seq, registry_seq) + 1
    assert issue.epoch == max(3, epoch)


def test_the_same_pair_keeps_its_channel_until_renewal_is_due() -> None:
    current = Standard(PAIR, 1, 4, NOW + timedelta(seconds=1))
    assert plan_channel(TERMS, current, 4, PAIR, NOW) == Keep()
    renewed = plan_channel(TERMS, current, 4, PAIR, NOW + timedelta(seconds=1))
    assert isinstance(renewed, Issue)
    assert (renewed.seq, renewed.why) == (5, "renewed")


def test_swapped_roles_are_a_new_channel() -> None:
    current = Standard(Pair(PAIR.backup, PAIR.primary), 1, 4, NOW + timedelta(days=1))
    issue = plan_channel(TERMS, current, 4, PAIR, NOW)
    assert isinstance(issue, Issue)
    assert issue.why == "roles swapped"


def test_a_raised_epoch_issues_a_channel_for_the_same_pair() -> None:
    current = Standard(PAIR, 1, 4, NOW + timedelta(days=1))
    issue = plan_channel(replace(TERMS, epoch=2), current, 0, PAIR, NOW)
    assert isinstance(issue, Issue)
    assert (issue.epoch, issue.seq) == (2, 5)
