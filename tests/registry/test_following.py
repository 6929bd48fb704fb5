"""What follows from a moved alias: every case decided on values alone."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundle.channel import BundleRef, Channel
from pipeline.core.clock import from_text
from pipeline.registry.agreement import Seen
from pipeline.registry.follow_terms import FollowTerms
from pipeline.registry.following import (
    Agreed,
    Finish,
    Judge,
    Outlook,
    Rebuild,
    Step,
    Stuck,
    find_wish,
    is_due,
    left_behind,
    next_step,
    versions_behind,
)
from pipeline.registry.history import Held, History
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import Mode
from pipeline.registry.store import Version

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
OLD, NEW = Pair(A, B), Pair(C, D)


def _version(number: int, bundle_id: str, role: str, mate: str | None) -> Version:
    paired = {"paired_with": mate} if mate else {}
    return Version(number, "run", {"bundle_id": bundle_id, "selected_as": role, **paired})


VERSIONS = (
    _version(1, A, "primary", B),
    _version(2, B, "backup", A),
    _version(3, C, "primary", D),
    _version(4, D, "backup", C),
)
RETRAINED = Version(5, "run", {})


def _held(pair: Pair, seq: int, rollback_of: int | None = None) -> Held:
    moments = ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z")
    refs = (BundleRef(pair.primary, 1), BundleRef(pair.backup, 1))
    return Held(Channel(1, "toy", "stable", 1, seq, *moments, *refs, rollback_of=rollback_of), b"")


def _seen(aliases: dict[str, int], *held: Held, done: str | None = "last", versions=VERSIONS) -> Seen:
    told = (str(held[-1].channel.seq) if held else None) if done == "last" else done
    newest = held[-1] if held else None
    return Seen("toy", newest, True, History(held), told, versions, aliases, NEW)


@pytest.mark.parametrize(
    ("at", "due"), [("2026-01-31T23:59:59Z", False), ("2026-02-01T00:00:00Z", True), ("2036-01-01T00:00:00Z", True)]
)
def test_a_channel_is_due_from_its_refresh_by_on(at: str, due: bool) -> None:
    assert is_due(_seen({"primary": 1, "backup": 2}, _held(OLD, 1)), from_text(at)) is due


def test_neither_nothing_nor_a_promotion_that_was_cut_off_is_renewed() -> None:
    late = from_text("2036-01-01T00:00:00Z")
    assert not is_due(_seen({"primary": 1}), late)
    assert not is_due(_seen({"primary": 1}, _held(OLD, 1), _held(NEW, 2), done="1"), late)


def _step(seen: Seen, mode: Mode = Mode.AUTOMATIC, local: Pair | None = None, **terms: object) -> Step:
    return next_step(Outlook(seen, mode, local, FollowTerms(**terms)))


def test_aliases_that_say_what_the_channel_says_ask_for_nothing() -> None:
    assert _step(_seen({"primary": 1, "backup": 2, "previous_primary": 3}, _held(OLD, 1))) == Agreed()


@pytest.mark.parametrize("mode", Mode)
def test_a_moved_primary_brings_the_backup_of_its_own_build(mode: Mode) -> None:
    step = _step(_seen({"primary": 3, "backup": 2}, _held(OLD, 1)), mode)
    assert isinstance(step, Judge)
    assert (step.wish.alias, step.pair, step.can_rebuild) == ("primary", NEW, False)


def test_a_model_that_was_never_promoted_follows_its_first_primary() -> None:
    step = _step(_seen({"primary": 3}))
    assert isinstance(step, Judge)
    assert step.pair == NEW


def test_two_moved_aliases_that_name_one_pair_in_swapped_roles_ask_for_the_swap() -> None:
    step = _step(_seen({"primary": 2, "backup": 1}, _held(OLD, 1)))
    assert isinstance(step, Judge)
    assert step.pair == Pair(B, A)


def test_two_moved_aliases_that_name_no_pair_ask_for_the_primarys_own() -> None:
    step = _step(_seen({"primary": 3, "backup": 1}, _held(OLD, 1)))
    assert isinstance(step, Judge)
    assert step.pair == NEW


def test_a_backup_that_was_moved_alone_is_judged_beside_the_primary_in_force() -> None:
    step = _step(_seen({"primary": 1, "backup": 4}, _held(OLD, 1)))
    assert isinstance(step, Judge)
    assert (step.wish.alias, step.pair) == ("backup", Pair(A, D))


def test_what_was_registered_last_is_followed_where_the_policy_promotes_by_itself() -> None:
    seen = _seen({"primary": 1, "backup": 2, "candidate": 3}, _held(OLD, 1))
    step = _step(seen)
    assert isinstance(step, Judge)
    assert (step.wish.alias, step.pair) == ("candidate", NEW)
    assert _step(seen, Mode.MANUAL) == Agreed()


def test_a_pair_that_a_rollback_took_back_is_followed_only_when_the_primary_itself_is_moved_there() -> None:
    held = (_held(OLD, 1), _held(NEW, 2), _held(OLD, 3, rollback_of=2))
    assert _step(_seen({"primary": 1, "backup": 2, "candidate": 3}, *held)) == Agreed()
    assert isinstance(_step(_seen({"primary": 3, "backup": 2, "candidate": 3}, *held)), Judge)


@pytest.mark.parametrize("done", [None, "1", "3", "forged"])
def test_aliases_that_lag_behind_a_channel_just_signed_are_no_wish(done: str | None) -> None:
    assert _step(_seen({"primary": 1, "backup": 2}, _held(OLD, 1), _held(NEW, 2), done=done)) == Finish()


def test_a_version_that_holds_a_trained_model_is_rebuilt_from_it() -> None:
    step = _step(_seen({"primary": 5, "backup": 2}, _held(OLD, 1), versions=(*VERSIONS, RETRAINED)))
    assert isinstance(step, Rebuild)
    assert (step.wish.version, step.from_source) == (RETRAINED, True)


def test_a_primary_without_a_backup_is_rebuilt_where_its_build_is() -> None:
    alone = (*VERSIONS[:2], _version(3, C, "primary", None))
    seen = _seen({"primary": 3, "backup": 2}, _held(OLD, 1), versions=alone)
    step = _step(seen, local=NEW)
    assert isinstance(step, Rebuild)
    assert not step.from_source
    elsewhere = _step(seen, local=OLD)
    assert isinstance(elsewhere, Stuck)
    assert "where its build is" in elsewhere.reasons[0]


def test_a_pair_whose_backup_was_registered_and_is_gone_has_no_backup() -> None:
    seen = _seen({"primary": 3, "backup": 2}, _held(OLD, 1), versions=VERSIONS[:3])
    assert isinstance(_step(seen), Stuck)


def test_a_policy_that_rebuilds_nothing_says_what_to_run() -> None:
    seen = _seen({"primary": 5, "backup": 2}, _held(OLD, 1), versions=(*VERSIONS, RETRAINED))
    step = _step(seen, rebuild=False)
    assert isinstance(step, Stuck)
    assert "dvc repro" in step.reasons[0]
    judged = _step(_seen({"primary": 3}, _held(OLD, 1)), local=NEW, rebuild=False)
    assert isinstance(judged, Judge)
    assert not judged.can_rebuild


def test_the_working_folders_own_pair_can_be_drilled_here() -> None:
    step = _step(_seen({"primary": 3}, _held(OLD, 1)), local=NEW)
    assert isinstance(step, Judge)
    assert step.can_rebuild


@pytest.mark.parametrize("gone", ["primary", "backup"])
def test_an_alias_that_somebody_deleted_is_told(gone: str) -> None:
    aliases = {"primary": 1, "backup": 2}
    del aliases[gone]
    step = _step(_seen(aliases, _held(OLD, 4)))
    assert isinstance(step, Stuck)
    assert step.alias == gone
    assert "channel seq 4" in step.reasons[0]


def test_a_registry_without_versions_has_nothing_to_follow() -> None:
    assert _step(_seen({}, _held(OLD, 1), versions=(), done=None)) == Agreed()


def test_going_back_to_a_pair_takes_back_the_one_that_is_left() -> None:
    seen = _seen({"primary": 1, "backup": 4}, _held(OLD, 1), _held(NEW, 2))
    assert left_behind(seen, OLD) == 2
    assert left_behind(seen, NEW) is None
    assert left_behind(seen, Pair(A, D)) is None
    assert left_behind(_seen({"primary": 1}), OLD) is None


def test_versions_behind_counts_primaries_and_trained_models_up_to_the_wished_one() -> None:
    versions = (*VERSIONS, RETRAINED, replace(RETRAINED, number=6))
    seen = _seen({"primary": 6, "backup": 2}, _held(OLD, 1), versions=versions)
    wish = find_wish(seen, Mode.MANUAL)
    assert wish is not None
    assert versions_behind(seen, wish) == 3


def test_a_step_back_is_one_version_behind() -> None:
    seen = _seen({"primary": 1, "backup": 4}, _held(NEW, 1))
    wish = find_wish(seen, Mode.MANUAL)
    assert wish is not None
    assert versions_behind(seen, wish) == 1


_aliases = st.dictionaries(
    st.sampled_from(["primary", "backup", "candidate", "previous_primary", "champion"]), st.integers(1, 7)
)


@given(aliases=_aliases, mode=st.sampled_from(Mode), pair=st.sampled_from([None, OLD, NEW]),
       local=st.sampled_from([None, OLD, NEW]), whole=st.booleans())  # fmt: skip
def test_whatever_is_moved_where_the_decision_is_one_and_once_followed_it_ends(
    aliases: dict[str, int], mode: Mode, pair: Pair | None, local: Pair | None, whole: bool
) -> None:
    held = () if pair is None else (_held(pair, 1),)
    versions = (*VERSIONS, RETRAINED)
    seen = _seen(aliases, *held, done="last" if whole else None, versions=versions)
    step = _step(seen, mode, local)
    assert isinstance(step, Finish) is (not whole and pair is not None)
    if isinstance(step, Judge):
        assert step.pair != pair
        assert step.pair.primary != step.pair.backup or step.wish.alias == "backup"
        numbers = {version.bundle_id: version.number for version in VERSIONS}
        settled = {"primary": numbers[step.pair.primary], "backup": numbers[step.pair.backup]}
        if step.pair.primary != step.pair.backup:
            assert _step(_seen(settled, *held, _held(step.pair, 2), versions=versions), mode, local) == Agreed()


def test_a_version_that_names_no_mate_is_paired_with_no_trained_model() -> None:
    trained, alone = Version(1, "run", {}), _version(2, C, "primary", None)
    step = next_step(Outlook(_seen({"primary": 2}, versions=(trained, alone)), Mode.AUTOMATIC, None, FollowTerms()))
    assert isinstance(step, Stuck)
