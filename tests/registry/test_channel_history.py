from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promoting import MODEL, Workshop, pair_of_release, refs, workshop

from pipeline.bundle.channel import Channel, Revocations
from pipeline.core.names import Role
from pipeline.registry.history import Held, all_revoked, claim_tag, history_tags, read_history, taken_back
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import load_private_key


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return workshop(tmp_path_factory.mktemp("shop"))


def _held(shop: Workshop, seq: int, release: int = 0, **changes: object) -> Held:
    named = refs(release)
    channel = Channel(
        1, MODEL, "stable", 1, seq, "2026-06-01T12:00:00Z", "2026-07-01T12:00:00Z", "2026-08-01T12:00:00Z",
        named[Role.PRIMARY], named[Role.BACKUP],
    )  # fmt: skip
    channel = replace(channel, **changes)
    return Held(channel, sign_channel(channel, load_private_key(shop.root / "artifacts/keys", {}))[1])


def test_what_is_kept_is_read_back_in_order(shop: Workshop) -> None:
    kept = [_held(shop, 12), _held(shop, 2), _held(shop, 3, epoch=2)]
    tags = {key: text for held in kept for key, text in history_tags(held)}
    found = read_history(tags, MODEL, shop.trust)
    assert [one.place for one in found.held] == [(1, 2), (1, 12), (2, 3)]
    assert set(found.held) == set(kept)
    assert (found.foreign, {seq for _, seq in found.begun}) == ((), {2, 3, 12})


def test_a_channel_that_revokes_much_is_kept_in_parts_and_half_of_them_are_none(shop: Workshop) -> None:
    held = _held(shop, 7, revoked=Revocations(bundles=tuple(f"{n:064x}" for n in range(200))))
    tags = history_tags(held)
    assert len(tags) > 3
    assert max(len(text) for _, text in tags) <= 4000
    assert read_history(dict(tags), MODEL, shop.trust).held == (held,)
    assert tags[-1][0] == "channel.1.7", "what makes it whole is written last"
    for lost in range(len(tags)):
        some = dict(tags[:lost] + tags[lost + 1 :])
        assert read_history(some, MODEL, shop.trust).held == ()


@pytest.mark.parametrize("attack", ["another model", "another name", "another number", "another key", "no envelope"])
def test_a_tag_that_no_pinned_key_vouches_for_is_not_history_but_its_number_is_not_used(
    shop: Workshop, tmp_path: Path, attack: str
) -> None:
    (good,) = history_tags(_held(shop, 7))
    tags = {
        "another model": dict(history_tags(_held(shop, 7, model="other"))),
        "another name": dict(history_tags(_held(shop, 7, channel="canary"))),
        "another number": {"channel.1.7": history_tags(_held(shop, 6))[0][1]},
        "another key": dict(history_tags(_held(workshop(tmp_path / "thief"), 7))),
        "no envelope": {"channel.1.7": good[1][:-1]},
    }[attack]
    found = read_history(tags, MODEL, shop.trust)
    assert (found.held, found.begun) == ((), (("channel.1.7", 7),))
    assert found.foreign == (("channel.1.7",) if attack == "another key" else ())


def test_claims_are_told_with_their_tags_and_those_of_older_versions_count(shop: Workshop) -> None:
    tags = {claim_tag("ab12"): "9", "channel_seq_begun": "4", claim_tag("cd34"): "no number", "channel_seq": "99"}
    found = read_history(tags, MODEL, shop.trust)
    assert found.claims == (("channel_seq_begun", 4), ("channel_seq_begun.ab12", 9))
    assert found.begun == found.claims


def test_what_a_rollback_took_back_stays_so_until_it_is_promoted_again(shop: Workshop) -> None:
    one, two, back = _held(shop, 1, 0), _held(shop, 2, 1), _held(shop, 3, 0, rollback_of=2)
    assert taken_back((one, two)) == frozenset()
    assert taken_back((one, two, back)) == {pair_of_release(1)}
    assert taken_back((one, two, back, _held(shop, 4, 1))) == frozenset()
    assert taken_back((two, back)) == {pair_of_release(1)}
    assert taken_back((back,)) == frozenset()


def test_every_revocation_of_any_channel_counts(shop: Workshop) -> None:
    one = _held(shop, 1, revoked=Revocations(bundles=("a" * 64,)))
    two = _held(shop, 2, revoked=Revocations(keys=("b" * 64,)))
    assert all_revoked((one, two)) == Revocations(("b" * 64,), ("a" * 64,))


@settings(max_examples=30)
@given(tags=st.dictionaries(st.from_regex(r"channel(_seq_begun)?[.0-9a-f]{0,9}", fullmatch=True), st.text(max_size=9)))
def test_any_tags_are_read_without_an_error(shop: Workshop, tags: dict[str, str]) -> None:
    assert read_history(tags, MODEL, shop.trust).held == ()
