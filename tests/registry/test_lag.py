"""Lag in versions and seconds, and what nodes say of themselves."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.names import Role
from pipeline.registry.lag import (
    MOVED_TAG,
    Lag,
    NodeReport,
    last_moved_at,
    measure_lag,
    moved_at,
    moved_text,
    read_node,
)
from pipeline.registry.pair import Pair
from pipeline.registry.store import Version

NOW = datetime(2026, 11, 22, 12, 0, 0, 250_000, tzinfo=UTC)
SEVEN = Version(7, "run", {})


def _member(role: str, bundle_id: str, state: str = "ready", replica: int = 0) -> dict[str, object]:
    return {"seat": {"role": role, "replica": replica}, "state": state, "bundle_id": bundle_id}


def _figures(*members: object, **more: object) -> dict[str, object]:
    return {"pairs": [{"model": "other", "members": []}, {"model": "toy", "members": list(members), **more}]}


def test_lag_counts_from_the_move_until_it_followed() -> None:
    assert measure_lag("channel", 2, NOW, None, NOW + timedelta(seconds=5)) == Lag("channel", 2, 5.0, False)
    followed = measure_lag("channel", 2, NOW, NOW + timedelta(seconds=3), NOW + timedelta(seconds=9))
    assert followed == Lag("channel", 0, 3.0, True)


def test_clocks_that_are_apart_make_no_negative_lag() -> None:
    assert measure_lag("node", 1, NOW, NOW - timedelta(seconds=3), NOW).seconds == 0


def test_an_alarm_is_for_more_seconds_than_allowed() -> None:
    assert Lag("channel", 1, 10.1, False).alarms(10)
    assert not Lag("channel", 1, 10.0, False).alarms(10)


def test_a_move_is_found_again_by_its_version() -> None:
    tags = {f"{MOVED_TAG}.primary": moved_text(SEVEN, NOW)}
    assert moved_at(tags, "primary", SEVEN) == NOW
    assert moved_at(tags, "backup", SEVEN) is None
    assert moved_at(tags, "primary", Version(8, "run", {})) is None
    assert last_moved_at(tags) == NOW
    assert last_moved_at({}) is None


@given(st.text(max_size=60))
def test_a_tag_that_says_nothing_is_no_moment(text: str) -> None:
    moved_at({f"{MOVED_TAG}.primary": text}, "primary", SEVEN)
    last_moved_at({f"{MOVED_TAG}.primary": text})


def test_a_node_serves_a_pair_when_both_roles_are_ready_with_it() -> None:
    found = read_node(_figures(_member("primary", "a"), _member("backup", "b"), channel={"seq": 4}), "toy")
    assert found == NodeReport({Role.PRIMARY: "a", Role.BACKUP: "b"}, 4)
    assert found.serves(Pair("a", "b"))
    assert not found.serves(Pair("b", "a"))


@pytest.mark.parametrize(
    "members",
    [
        [_member("primary", "a"), _member("backup", "b", state="starting")],
        [_member("primary", "a"), _member("primary", "old", replica=1), _member("backup", "b")],
        [_member("primary", "a")],
        [],
    ],
)
def test_a_node_of_which_one_member_is_not_there_yet_does_not_serve_the_pair(members: list[object]) -> None:
    found = read_node(_figures(*members), "toy")
    assert found is not None
    assert not found.serves(Pair("a", "b"))


def test_a_node_that_serves_another_model_has_nothing_to_tell() -> None:
    assert read_node(_figures(_member("primary", "a")), "third") is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["toy", "ready", "primary"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["pairs", "model", "members", "seat", "role", "state", "channel"]), inner)
    ),
)


@given(_json)
def test_whatever_a_node_answers_is_read_or_passed_over(figures: object) -> None:
    read_node(figures, "toy")
    read_node({"pairs": [{"model": "toy", "members": figures, "channel": figures}]}, "toy")
    read_node({"pairs": [{"model": "toy", "members": [figures, {"seat": figures}]}]}, "toy")
