"""Promotion, interrupted after every single step, and from two project folders at once; a registry in memory."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promoting import MODEL, NOW, TERMS, Workshop, pair_of_release, refs, register_releases, workshop

from pipeline.bundle.channel import Revocations
from pipeline.commands.build import mending, promotion_effects
from pipeline.commands.build.channel_folder import current_channel
from pipeline.commands.build.mending import align, carry_out, look
from pipeline.commands.build.promotion_effects import promote_pair
from pipeline.core import layout
from pipeline.core.errors import Malformed, PromotionRefused, Unreachable
from pipeline.core.names import Role
from pipeline.registry.agreement import find_drift
from pipeline.registry.channel_plan import Issue, Keep
from pipeline.registry.history import Held
from pipeline.registry.memory import MemoryRegistry
from pipeline.registry.pair import Pair


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Mortal(MemoryRegistry):
    """A registry whose user is killed when its writes, and those of the channel's folder, are used up."""

    steps: list[str] = field(default_factory=list)
    allowed: int | None = None

    def step(self, name: str) -> None:
        if self.allowed is not None and len(self.steps) >= self.allowed:
            raise Killed(name)
        self.steps.append(name)

    def tag_model(self, model: str, key: str, value: str) -> None:
        self.step(f"tag {key}")
        super().tag_model(model, key, value)

    def untag_model(self, model: str, key: str) -> None:
        self.step(f"untag {key}")
        super().untag_model(model, key)

    def set_alias(self, model: str, alias: str, number: int) -> None:
        self.step(f"alias {alias}")
        super().set_alias(model, alias, number)

    def remove_alias(self, model: str, alias: str) -> None:
        self.step(f"remove {alias}")
        super().remove_alias(model, alias)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = workshop(tmp_path / "one")
    monkeypatch.chdir(made.root)
    return made


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mortal:
    made = Mortal()
    register_releases(made, 4, tmp_path / "bundles")
    made.steps.clear()
    real = mending.write_folder

    def write(model: str, held: Held) -> None:
        made.step(f"folder seq {held.channel.seq}")
        real(model, held)

    monkeypatch.setattr(mending, "write_folder", write)
    return made


def _promote(registry: MemoryRegistry, shop: Workshop, release: int, **options: Any) -> promotion_effects.Promotion:
    with shop.entered():
        return promote_pair(registry, MODEL, refs(release), TERMS, shop.trust, NOW, **options)


def _aliased(registry: MemoryRegistry) -> dict[str, str]:
    versions = {version.number: version.tags["candidate"] for version in registry.versions(MODEL)}
    return {alias: versions[number] for alias, number in registry.aliases(MODEL).items()}


def _named(shop: Workshop) -> tuple[int, Pair] | None:
    with shop.entered():
        channel = current_channel(MODEL, shop.trust)
    return None if channel is None else (channel.seq, Pair(channel.primary.bundle_id, channel.backup.bundle_id))


def _drift(registry: MemoryRegistry, shop: Workshop) -> list[str]:
    with shop.entered():
        return [f"{one.part}: {one.finding}" for one in find_drift(look(registry, MODEL, shop.trust))]


def _renew(registry: MemoryRegistry, shop: Workshop, days: int) -> promotion_effects.Promotion:
    with shop.entered():
        return promote_pair(registry, MODEL, None, TERMS, shop.trust, NOW + timedelta(days=days))


def test_a_renewal_is_of_the_pair_in_force_whoever_promoted_it_and_moves_no_alias(
    registry: Mortal, shop: Workshop
) -> None:
    _promote(registry, shop, 1)
    registry.set_alias(MODEL, "primary", 1)
    assert (_renew(registry, shop, 29).plan, _named(shop)) == (Keep(), (1, pair_of_release(1)))
    assert _renew(registry, shop, 31).seq == 2
    assert (_named(shop), registry.aliases(MODEL)["primary"]) == ((2, pair_of_release(1)), 1)
    _promote(registry, shop, 3)
    assert isinstance(_renew(registry, shop, 20).plan, Keep)
    assert _named(shop) == (3, pair_of_release(3))


def test_where_nothing_was_promoted_nothing_is_renewed(registry: Mortal, shop: Workshop) -> None:
    with pytest.raises(PromotionRefused, match="never promoted"):
        _renew(registry, shop, 0)
    assert registry.steps == []


def test_a_registered_pair_becomes_the_current_one_and_its_channel_is_recorded(
    registry: Mortal, shop: Workshop
) -> None:
    done = _promote(registry, shop, 2)
    assert isinstance(done.plan, Issue)
    assert _named(shop) == (done.seq, pair_of_release(2)) == (1, pair_of_release(2))
    assert _aliased(registry) == {"primary": "r2.primary", "backup": "r2.backup", "candidate": "r3.primary"}
    assert (
        registry.model_tags(MODEL)["channel.1.1"].encode() == (layout.channel_dir(MODEL) / "channel.sig").read_bytes()
    )
    assert _drift(registry, shop) == []


def test_the_same_pair_again_signs_nothing(registry: Mortal, shop: Workshop) -> None:
    _promote(registry, shop, 2)
    registry.steps.clear()
    assert _promote(registry, shop, 2) == promotion_effects.Promotion(Keep(), 1, ())
    assert registry.steps == []


def test_the_primary_before_is_kept_as_an_alias_and_the_newest_build_is_the_candidate_until_promoted(
    registry: Mortal, shop: Workshop
) -> None:
    _promote(registry, shop, 1)
    _promote(registry, shop, 3)
    assert _aliased(registry) == {"primary": "r3.primary", "backup": "r3.backup", "previous_primary": "r1.primary"}


def test_a_rollback_is_a_higher_number_that_names_the_older_pair(registry: Mortal, shop: Workshop) -> None:
    _promote(registry, shop, 1)
    _promote(registry, shop, 3)
    done = _promote(registry, shop, 1, rollback_of=2)
    assert done.seq == 3
    with shop.entered():
        channel = current_channel(MODEL, shop.trust)
    assert channel is not None
    assert (channel.rollback_of, channel.primary.bundle_id) == (2, pair_of_release(1).primary)
    assert _aliased(registry)["candidate"] == "r3.primary"


def test_two_bundles_of_two_releases_are_never_a_pair(registry: Mortal, shop: Workshop) -> None:
    mixed = {Role.PRIMARY: refs(1)[Role.PRIMARY], Role.BACKUP: refs(2)[Role.BACKUP]}
    with shop.entered(), pytest.raises(PromotionRefused, match="not registered as one pair"):
        promote_pair(registry, MODEL, mixed, TERMS, shop.trust, NOW)
    assert registry.steps == []


def test_a_bundle_without_a_version_is_not_promoted(registry: Mortal, shop: Workshop) -> None:
    with pytest.raises(PromotionRefused, match="no version in the registry"):
        _promote(registry, shop, 9)
    assert registry.steps == []


def test_a_channel_that_nobody_could_read_is_not_signed(registry: Mortal, shop: Workshop) -> None:
    _promote(registry, shop, 0)
    registry.steps.clear()
    sized = {role: replace(ref, size=0) for role, ref in refs(1).items()}
    with shop.entered(), pytest.raises(Malformed):
        promote_pair(registry, MODEL, sized, TERMS, shop.trust, NOW)
    assert (registry.steps, _named(shop)) == ([], (1, pair_of_release(0)))


def test_what_is_revoked_stays_so_and_is_promoted_no_more(registry: Mortal, shop: Workshop) -> None:
    _promote(registry, shop, 1)
    _promote(registry, shop, 2, revoke=Revocations(bundles=(pair_of_release(1).primary,)))
    _promote(registry, shop, 3)
    with shop.entered():
        channel = current_channel(MODEL, shop.trust)
    assert channel is not None
    assert channel.revoked.bundles == (pair_of_release(1).primary,)
    with pytest.raises(PromotionRefused, match="revoked for ever"):
        _promote(registry, shop, 1)
    assert _aliased(registry)["previous_primary"] == "r2.primary"


@pytest.mark.parametrize("folder_is_kept", [False, True])
def test_a_key_that_is_pinned_no_more_does_not_take_its_revocations_along(
    registry: Mortal, shop: Workshop, tmp_path: Path, folder_is_kept: bool
) -> None:
    _promote(registry, shop, 1)
    _promote(registry, shop, 1, revoke=Revocations(bundles=(pair_of_release(0).primary,)))
    next_shop = workshop(tmp_path / "two")
    if folder_is_kept:  # what it signed before is in force there, and older
        lower = MemoryRegistry()
        register_releases(lower, 4, tmp_path / "bundles")
        _promote(lower, next_shop, 2)
    registry.steps.clear()
    for release in (0, 3):
        with pytest.raises(PromotionRefused, match=r"signed channel\.1\..*pin that key once more"):
            _promote(registry, next_shop, release)
    assert registry.steps == []
    assert any("would be forgotten" in line for line in _drift(registry, next_shop))


def test_after_a_rotation_that_both_keys_went_through_the_old_one_may_go(
    registry: Mortal, shop: Workshop, tmp_path: Path
) -> None:
    bad = pair_of_release(0).primary
    _promote(registry, shop, 1, revoke=Revocations(bundles=(bad,)))
    following = workshop(tmp_path / "two")
    both = replace(following.trust, keys=(*shop.trust.keys, *following.trust.keys))
    with following.entered():
        promote_pair(registry, MODEL, None, TERMS, both, NOW, why="renewed")
        promote_pair(registry, MODEL, refs(2), TERMS, following.trust, NOW)
        channel = current_channel(MODEL, following.trust)
    assert channel is not None
    assert (channel.seq, channel.revoked.bundles) == (3, (bad,))
    assert _drift(registry, following) == []


@pytest.mark.parametrize(
    ("tag", "value", "is_told"),
    [
        ("channel_seq_begun.ab", "999999999999999", True),
        ("channel.1.999999999999999", "x", True),
        ("channel.1.2", "x", False),
        ("channel.1.2.1", "a part too many of the next channel", False),
        ("channel.1.1.1", "a part too many of the one in force", False),
        ("channel_seq", "999999999999999", False),
        ("latest_build", "x", False),
    ],
)
def test_one_forged_tag_stops_no_promotion_and_uses_up_no_numbers(
    registry: Mortal, shop: Workshop, tag: str, value: str, is_told: bool
) -> None:
    _promote(registry, shop, 1)
    registry.tag_model(MODEL, tag, value)
    for release in (2, 3):
        seq = _promote(registry, shop, release).seq
        assert (_named(shop), seq <= 4) == ((seq, pair_of_release(release)), True)
    with shop.entered():
        seen = look(registry, MODEL, shop.trust)
        assert seen.in_force in seen.history.held
    left = _drift(registry, shop)
    assert all(f"the tag {tag} claims seq 999999999999999" in line for line in left)
    assert bool(left) == is_told


def test_a_tag_that_comes_back_each_time_is_named(registry: Mortal, shop: Workshop) -> None:
    _promote(registry, shop, 1)

    class Stubborn(Mortal):
        def untag_model(self, model: str, key: str) -> None:
            """Somebody sets it again at once."""

    stubborn = Stubborn(models=registry.models, runs=registry.runs)
    stubborn.tag_model(MODEL, "channel.1.1.1", "x")
    with shop.entered(), pytest.raises(Unreachable, match="history: the registry does not know channel seq 1"):
        align(stubborn, MODEL, shop.trust)


def _steps_of_a_promotion(registry: Mortal, shop: Workshop) -> int:
    _promote(registry, shop, 0)
    registry.steps.clear()
    _promote(registry, shop, 1)
    return len(registry.steps)


@pytest.mark.parametrize("kill_at", range(9))
@pytest.mark.parametrize("then", ["reconcile", "promote", "the folder is lost", "the registry is lost"])
def test_a_promotion_killed_after_any_step_ends_in_agreement(
    registry: Mortal, shop: Workshop, tmp_path: Path, kill_at: int, then: str
) -> None:
    _promote(registry, shop, 0)
    registry.steps.clear()
    registry.allowed = kill_at
    killed = False
    try:
        _promote(registry, shop, 1)
    except Killed:
        killed = True
    begun = registry.steps[-1:]
    registry.allowed = None
    before = _named(shop)
    assert before in [(1, pair_of_release(0)), (2, pair_of_release(1))]
    if then == "the folder is lost":
        shutil.rmtree(shop.root / layout.channel_dir(MODEL))
    if then == "the registry is lost":
        registry.models.clear()
        register_releases(registry, 4, tmp_path / "bundles")
    if then == "promote":
        done = _promote(registry, shop, 2)
        assert done.seq > before[0]
    else:
        with shop.entered():
            align(registry, MODEL, shop.trust)
    assert _drift(registry, shop) == [], begun
    after = _named(shop)
    assert after is not None
    known = {1: pair_of_release(0), 2: pair_of_release(1)}
    assert after[1] == (pair_of_release(2) if then == "promote" else known[after[0]])
    if not killed:
        assert kill_at > 7, "the kills do not reach the last step"
    # Whatever was begun, no number is given out twice.
    assert _promote(registry, shop, 3).seq > max(after[0], before[0])


def test_kills_are_tried_after_every_step(registry: Mortal, shop: Workshop) -> None:
    assert _steps_of_a_promotion(registry, shop) == 8


def _names_told(registry: MemoryRegistry, shop: Workshop) -> dict[int, Pair]:
    with shop.entered():
        seen = look(registry, MODEL, shop.trust)
    found: dict[int, Pair] = {}
    for one in seen.all_held:
        assert found.setdefault(one.channel.seq, one.pair) == one.pair
    return found


class Interleaved:
    """Runs what another folder does in the middle of ours: after the n-th write or read of the registry."""

    def __init__(self, registry: Mortal, at: int, other: Callable[[], object]) -> None:
        self.count, self.at, self.other, self.inner = 0, at, other, registry

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.inner, name)
        if not callable(real):
            return real

        def call(*arguments: Any) -> Any:
            answer = real(*arguments)
            self.count += 1
            if self.count == self.at:
                self.other()
            return answer

        return call


@pytest.mark.slow
@pytest.mark.parametrize("at", range(1, 22))
def test_two_folders_that_promote_at_once_never_share_a_number_and_end_with_the_higher(
    registry: Mortal, shop: Workshop, tmp_path: Path, at: int
) -> None:
    other = workshop(tmp_path / "two", shop)
    _promote(registry, shop, 0)
    theirs = []

    def promote_there() -> None:
        revoke = Revocations(bundles=(pair_of_release(3).backup,))
        theirs.append(_promote(registry, other, 2, revoke=revoke).seq)

    between = Interleaved(registry, at, promote_there)
    ours = _promote(between, shop, 1)
    if not theirs:
        pytest.skip("this promotion ended before")
    told = _names_told(registry, shop) | _names_told(registry, other)
    for folder in (shop, other):
        with folder.entered():
            align(registry, MODEL, folder.trust)
        assert _drift(registry, folder) == []
    assert _named(shop) == _named(other)
    final = _named(shop)
    assert final is not None
    assert final[0] == max(told)
    assert final[0] >= max(ours.seq, theirs[0])
    with shop.entered():
        channel = current_channel(MODEL, shop.trust)
    assert channel is not None
    assert pair_of_release(3).backup in channel.revoked.bundles, "a revocation was lost"


@pytest.mark.slow
@settings(max_examples=8)
@given(data=st.data())
def test_mending_in_any_order_and_by_two_at_once_ends_the_same(
    tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    root = tmp_path_factory.mktemp("mending")
    shops = [workshop(root / "one")]
    shops.append(workshop(root / "two", shops[0]))
    registry = MemoryRegistry()
    register_releases(registry, 3, root / "bundles")
    for number, folder in enumerate(data.draw(st.lists(st.integers(0, 1), min_size=1, max_size=4))):
        _promote(registry, shops[folder], number % 3)
    for alias in data.draw(st.lists(st.sampled_from(["primary", "backup", "candidate", "previous_primary"]))):
        registry.set_alias(MODEL, alias, data.draw(st.integers(1, 6)))
    if data.draw(st.booleans()):
        shutil.rmtree(shops[0].root / layout.channel_dir(MODEL), ignore_errors=True)
    newest = max(_names_told(registry, shops[0]) | _names_told(registry, shops[1]))
    looks = []
    for folder in shops:
        with folder.entered():
            looks.append([one.mend for one in find_drift(look(registry, MODEL, folder.trust)) if one.mend])
    steps = [(folder, mend) for folder, mends in zip(shops, looks, strict=True) for mend in mends]
    for folder, mend in data.draw(st.permutations(steps)):
        with folder.entered():
            carry_out(registry, MODEL, mend)
    for folder in shops:
        with folder.entered():
            align(registry, MODEL, folder.trust)
    for folder in shops:
        assert _drift(registry, folder) == []
        assert (_named(folder) or (0,))[0] == newest
