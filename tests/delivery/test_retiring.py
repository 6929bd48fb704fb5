"""What is old is decided from signed channels alone; removing it, at any moment of a publication, costs no release."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from depots import NOW, Release, Signer
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundle.channel import BundleRef, Channel
from pipeline.commands.build.publishing import publish
from pipeline.core.clock import to_text
from pipeline.core.errors import Malformed
from pipeline.delivery.contents import unverified_contents
from pipeline.delivery.depot import bundle_path, channel_path, chunk_path
from pipeline.delivery.retiring import Removal, harmed, old_bundles, plan_removal, remove
from pipeline.delivery.staging import stage
from pipeline.delivery.transports.memory import MemoryDepot

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = np.random.default_rng(0).bytes(40_000)


def channels(*pairs: str) -> list[Channel]:
    """Channels a day apart, from seq 1 on; each pair is two letters, its bundles."""
    made = []
    for day, pair in enumerate(pairs):
        primary, backup = (BundleRef(letter * 64, 1) for letter in pair)
        issued = to_text(START + timedelta(days=day))
        made.append(Channel(1, "tiny", "stable", 0, day + 1, issued, issued, issued, primary, backup))
    return made


def old(found: Sequence[Channel], keep: int, since: int = 1_000) -> str:
    """The letters of the old bundles, where everything before the day ``since`` is long ago."""
    return "".join(sorted(one[0] for one in old_bundles(found, keep, START + timedelta(days=since))))


def test_the_releases_in_force_last_stay() -> None:
    found = channels("ab", "cd", "ef", "01")
    assert old(found, 2) == "abcd"
    assert old(found, 3) == "ab"
    assert old(found, 4) == ""
    assert old([], 2) == ""


def test_the_order_of_channels_is_that_of_their_numbers_and_epochs() -> None:
    found = channels("ab", "cd", "ef")
    later = replace(found[0], epoch=1)
    assert old([later, *found[1:]], 1) == "cdef"
    assert old(list(reversed(found)), 1) == "abcd"


def test_a_renewal_is_no_release_of_its_own() -> None:
    assert old(channels("ab", "cd", "cd", "cd"), 2) == ""


def test_what_was_rolled_back_to_counts_as_new() -> None:
    assert old(channels("ab", "cd", "ef", "ab"), 2) == "cd"


def test_a_bundle_of_a_release_that_stays_stays() -> None:
    assert old(channels("ab", "cb", "db"), 1) == "ac"


def test_what_gave_way_a_short_while_ago_stays() -> None:
    found = channels("ab", "cd", "ef", "01")  # ab gave way on day 1, cd on day 2, ef on day 3
    assert old(found, 1, since=2) == "ab"
    assert old(found, 1, since=3) == "abcd"
    assert old(found, 1, since=4) == "abcdef"


def test_the_last_channel_of_an_old_bundle_is_told() -> None:
    found = old_bundles(channels("ab", "ab", "cd"), 1, START + timedelta(days=9))
    assert {bundle_id[0]: channel.seq for bundle_id, channel in found.items()} == {"a": 2, "b": 2}


pairs = st.lists(st.sampled_from(["ab", "ac", "cd", "ef", "ba"]), min_size=1, max_size=8)


@given(pairs, st.integers(1, 5), st.integers(0, 9))
def test_what_the_newest_channels_name_is_never_old(named: list[str], keep: int, since: int) -> None:
    found = old(channels(*named), keep, since)
    newest_first = list(dict.fromkeys(reversed(named)))
    assert not set(found) & set("".join(newest_first[:keep]))
    assert not set(found) & set("".join(named[since - 1 :] if since else named))
    assert set(old(channels(*named), keep + 1, since)) <= set(found)


# A depot.


def put(depot: object, signer: Signer, release: Release) -> None:
    publish(depot, release.channel_sig, release.bundles, signer.key, signer.policy())


def ids(release: Release) -> set[str]:
    return set(release.channel.bundle_ids.values())


@dataclass
class Interrupted:
    """A depot at whose nth operation something else happens first."""

    depot: MemoryDepot
    nth: int
    happen: Callable[[], None]
    address: str = "memory"
    lanes: int = 1
    frees_later: str | None = None
    done: int = 0

    def _count(self) -> None:
        self.done += 1
        if self.done == self.nth:
            self.happen()

    def read(self, path: str, bytes_max: int) -> bytes | None:
        self._count()
        return self.depot.read(path, bytes_max)

    def size(self, path: str) -> int | None:
        self._count()
        return self.depot.size(path)

    def write(self, path: str, data: bytes) -> None:
        self._count()
        self.depot.write(path, data)

    def bundle_ids(self) -> frozenset[str]:
        self._count()
        return self.depot.bundle_ids()

    def remove(self, path: str) -> None:
        self._count()
        self.depot.remove(path)


@dataclass(frozen=True)
class Scene:
    """Two releases in a depot, and a third that is made of the first one's chunks."""

    signer: Signer
    first: Release
    second: Release
    third: Release
    files: dict[str, bytes]

    def depot(self) -> MemoryDepot:
        return MemoryDepot(dict(self.files))

    def is_whole(self, depot: MemoryDepot) -> bool:
        """Tell whether the third release can be fetched."""
        for bundle_id in ids(self.third):
            contents = depot.files.get(bundle_path(bundle_id, "contents.sig"))
            if contents is None or bundle_path(bundle_id, "bundle.sig") not in depot.files:
                return False
            files = unverified_contents(contents, "").files
            if not all(chunk_path(piece.sha256) in depot.files for file in files for piece in file.pieces):
                return False
        return depot.files[channel_path("tiny")] == self.third.channel_sig


@pytest.fixture(params=["new bundles of old chunks", "the old bundles"])
def scene(request: pytest.FixtureRequest, signer: Signer) -> Scene:
    first, second = signer.release(1, MODEL, b"one"), signer.release(2, MODEL[::-1], b"two")
    third = signer.release(3, MODEL + b"and more", b"three")
    if request.param == "the old bundles":  # a rollback
        refs = {"primary": first.channel.primary, "backup": first.channel.backup}
        third = signer.signed(replace(third.channel, **refs), first.bundles)
    depot = MemoryDepot()
    for release in (first, second):
        put(depot, signer, release)
    return Scene(signer, first, second, third, depot.files)


def retire(depot: object, scene: Scene) -> tuple[tuple[Removal, ...], tuple[str, ...]]:
    """Remove the first release; returns what was removed, and what the second look found."""
    there = depot.bundle_ids()
    removals = plan_removal(depot, there, ids(scene.first))
    remove(depot, removals)
    return removals, harmed(depot, there, removals)


def test_a_release_that_is_old_goes_and_what_others_are_made_of_stays(signer: Signer, tmp_path: Path) -> None:
    depot = MemoryDepot()
    releases = [signer.release(1, MODEL, b"one"), signer.release(2, MODEL[:20_000] + b"!" + MODEL[20_000:], b"one")]
    put(depot, signer, releases[1])
    alone = dict(depot.files)
    for release in releases:
        del depot.files[channel_path("tiny")]
        put(depot, signer, release)
    removals = plan_removal(depot, depot.bundle_ids(), ids(releases[0]) - ids(releases[1]))
    remove(depot, removals)
    assert depot.files.keys() == alone.keys()
    assert sum(one.size for one in removals) < 20_000
    assert stage(depot, "tiny", signer.policy(), tmp_path / "node", NOW).seq == 2


def test_planning_removes_nothing(scene: Scene) -> None:
    depot = scene.depot()
    before = dict(depot.files)
    assert plan_removal(depot, depot.bundle_ids(), ids(scene.first))
    assert depot.files == before


def test_bundles_of_others_keep_their_chunks(signer: Signer, tmp_path: Path) -> None:
    """Those that no channel of ours names, signed by a key that is not pinned here."""
    other, depot = Signer(tmp_path / "other"), MemoryDepot()
    put(depot, other, other.release(1, MODEL, b"theirs"))
    theirs = dict(depot.files)
    del depot.files[channel_path("tiny")]
    ours = signer.release(1, MODEL, b"ours")
    put(depot, signer, ours)
    remove(depot, plan_removal(depot, depot.bundle_ids(), ids(ours) - ids(other.release(1, MODEL, b"theirs"))))
    assert {path for path in theirs if path not in depot.files} == set()


def test_a_bundle_whose_contents_cannot_be_read_stops_it_all(scene: Scene) -> None:
    depot = scene.depot()
    for bad in (b"", b"{}", b'{"payload":"e30="}', b'{"payload":"!"}', b"[]"):
        depot.files[bundle_path(scene.second.channel.primary.bundle_id, "contents.sig")] = bad
        before = dict(depot.files)
        with pytest.raises(Malformed):
            retire(depot, scene)
        assert depot.files == before


def test_a_removal_that_was_killed_anywhere_is_finished_by_the_next(scene: Scene) -> None:
    def kill() -> None:
        raise KeyboardInterrupt

    whole = scene.depot()
    retire(whole, scene)
    nth = 0
    while True:
        nth += 1
        depot = scene.depot()
        try:
            retire(Interrupted(depot, nth, kill), scene)
            break
        except KeyboardInterrupt:
            retire(depot, scene)
            assert depot.files == whole.files
    assert nth > 20


def test_a_publication_during_which_old_releases_are_removed_is_whole_or_the_remover_knows(
    scene: Scene,
) -> None:
    """A whole removal at every moment of a publication."""
    nth = 0
    while True:
        nth += 1
        depot, told = scene.depot(), list[bool]()

        def happen(depot: MemoryDepot = depot, told: list[bool] = told) -> None:
            removals, lacking = retire(depot, scene)
            told.append(bool(lacking) or _names_removed(scene, removals))

        interrupted = Interrupted(depot, nth, happen)
        put(interrupted, scene.signer, scene.third)
        if not told:
            break
        assert told[0] or scene.is_whole(depot)
        put(depot, scene.signer, scene.third)
        assert scene.is_whole(depot)
    assert nth > 30


def test_a_removal_during_which_is_published_leaves_a_whole_release_or_knows(scene: Scene) -> None:
    """A whole publication at every moment of a removal."""
    nth = 0
    while True:
        nth += 1
        depot, published = scene.depot(), list[bool]()

        def happen(depot: MemoryDepot = depot, published: list[bool] = published) -> None:
            put(depot, scene.signer, scene.third)
            published.append(True)

        removals, lacking = retire(Interrupted(depot, nth, happen), scene)
        if not published:
            break
        assert bool(lacking) or _names_removed(scene, removals) or scene.is_whole(depot)
        put(depot, scene.signer, scene.third)
        assert scene.is_whole(depot)
    assert nth > 20


def _names_removed(scene: Scene, removals: Sequence[Removal]) -> bool:
    """What the command reads in the registry: the channel is recorded before it is published."""
    return not ids(scene.third).isdisjoint(one.bundle_id for one in removals)
