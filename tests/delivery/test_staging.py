"""A node stages what its depot offers: only what it lacks, all of it or nothing, and nothing that was not signed."""

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from depots import NOW, Release, Signer, drilled, payload, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundle.channel import Channel, Revocations
from pipeline.bundle.floor import floor_path, raise_floor
from pipeline.bundle.policy import KeyUse
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.reading import SMALL_BYTES_MAX
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.commands.build.publishing import publish
from pipeline.core.errors import (
    Expired,
    FileAccess,
    HotspareError,
    Malformed,
    NotAccepted,
    OutOfSpace,
    Revoked,
    RolledBack,
    SignatureInvalid,
    Tampered,
    Unreachable,
    Untrusted,
)
from pipeline.core.names import Role
from pipeline.delivery.assembling import Place, write_chunk
from pipeline.delivery.depot import bundle_path, channel_path, chunk_path
from pipeline.delivery.staging import Staged, stage
from pipeline.delivery.transports.memory import MemoryDepot

CHANNEL = channel_path("tiny")


class World:
    """A signer, a depot in memory and a node's folder."""

    def __init__(self, folder: Path, signer: Signer | None = None) -> None:
        self.signer = signer or Signer(folder / "signer")
        self.depot = MemoryDepot()
        self.policy = self.signer.policy(folder.name)
        self.to = folder / "node"
        self.offered: Channel | None = None

    def publish(self, release: Release, **more: object) -> None:
        publish(self.depot, release.channel_sig, release.bundles, self.signer.key, self.policy, **more)

    def release(self, seq: int, primary: bytes, backup: bytes = b"a small backup", **changes: object) -> Release:
        made = self.signer.release(seq, primary, backup, **changes)
        self.publish(made)
        self.offered = made.channel
        return made

    def stage(self, depot: object = None, **more: object) -> Staged:
        return stage(depot or self.depot, "tiny", self.policy, self.to, NOW, **more)

    def in_place(self) -> dict[str, bytes]:
        root = self.to / "tiny"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def chunks(self, data: bytes) -> list[str]:
        """Paths of the chunks in the depot that these bytes hold."""
        return [p for p, chunk in self.depot.files.items() if p.startswith("chunks/") and chunk in data]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("original"))
    made.release(1, MODEL)
    made.stage()
    return made


@pytest.fixture(scope="module")
def offering(original: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """A node that has nothing yet, and a depot that offers it a release."""
    world = World(tmp_path_factory.mktemp("offering"), original.signer)
    world.depot.files.update(original.depot.files)
    world.offered = original.offered
    return world


@pytest.fixture
def staged_world(original: World, tmp_path: Path) -> World:
    """A world whose first release is staged; made once, and copied."""
    world = World(tmp_path, original.signer)
    world.depot.files.update(original.depot.files)
    world.offered = original.offered
    shutil.copytree(original.to, world.to)
    return world


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


MODEL, NEW = noise(100_000), noise(60_000, 1)


class Counting:
    """A depot that tells what was read, and fails from the nth chunk on."""

    def __init__(self, depot: MemoryDepot, chunks_max: int | None = None) -> None:
        self.depot, self.left, self.read_paths = depot, chunks_max, list[str]()
        self.address, self.lanes = depot.address, 1

    def read(self, path: str, bytes_max: int) -> bytes | None:
        if path.startswith("chunks/") and self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Unreachable("the network went away")
        self.read_paths.append(path)
        return self.depot.read(path, bytes_max)

    @property
    def chunks(self) -> list[str]:
        return [path for path in self.read_paths if path.startswith("chunks/")]


def test_a_staged_release_is_what_the_node_loads(world: World) -> None:
    release = world.release(1, MODEL)
    staged = world.stage()
    channel = load_channel(world.to / "tiny", world.policy, NOW)
    assert channel.channel == release.channel
    for role in Role:
        bundle = verify_bundle(world.to / "tiny" / role, world.policy, NOW, channel, role)
        assert bundle.bundle_id == release.channel.ref(role).bundle_id
    assert (staged.epoch, staged.seq, staged.was_current) == (0, 1, False)
    assert staged.issued_at == datetime(2026, 5, 31, 12, tzinfo=UTC)
    assert staged.bytes_total == release.channel.primary.size + release.channel.backup.size
    assert sorted(path.name for path in world.to.iterdir()) == [".incoming", "tiny"]
    assert sorted(path.name for path in (world.to / ".incoming").iterdir()) == ["tiny.lock"]


def test_every_byte_that_moved_is_counted(world: World) -> None:
    world.release(1, MODEL)
    counted = Counting(world.depot)
    staged = world.stage(counted)
    assert staged.bytes_moved == sum(len(world.depot.files.get(path, b"")) for path in counted.read_paths)
    assert staged.chunks_moved == len(counted.chunks)


def test_staging_the_same_again_moves_the_channel_alone(world: World) -> None:
    release = world.release(1, MODEL)
    world.stage()
    for more in ({}, {"believe_disk": True}):
        again = world.stage(**more)
        assert again.was_current
        assert again.bytes_moved == len(release.channel_sig)


def test_a_change_moves_the_chunks_around_it_alone(staged_world: World) -> None:
    world = staged_world
    changed = MODEL[:50_000] + b"new" + MODEL[50_000:]
    world.release(2, changed)
    staged = world.stage()
    assert 1 <= staged.chunks_moved <= 5
    assert staged.seq == 2
    assert (world.to / "tiny/primary/payload/model/model.onnx").read_bytes() == changed


def test_a_role_swap_and_a_renewal_move_no_chunk(world: World) -> None:
    first = world.release(1, MODEL)
    world.stage()
    bundles = {Role.PRIMARY: first.bundles[Role.BACKUP], Role.BACKUP: first.bundles[Role.PRIMARY]}
    swapped = replace(first.channel, seq=2, primary=first.channel.backup, backup=first.channel.primary)
    renewed = replace(swapped, seq=3, issued_at="2026-06-01T00:00:00Z")
    for channel in (swapped, renewed):
        world.publish(world.signer.signed(channel, bundles))
        staged = world.stage()
        assert (staged.seq, staged.chunks_moved, staged.was_current) == (channel.seq, 0, False)


def test_a_model_that_moved_to_another_file_is_found_by_its_bytes(world: World) -> None:
    first = world.release(1, MODEL)
    world.stage()
    files = {**payload("primary", b"tiny"), "model/weights.bin": noise(300) + MODEL}
    bundles = {Role.PRIMARY: world.signer.bundle(files), Role.BACKUP: first.bundles[Role.BACKUP]}
    channel = replace(first.channel, seq=2, primary=reference(bundles[Role.PRIMARY]))
    world.publish(world.signer.signed(channel, bundles))
    assert world.stage().chunks_moved <= 5


@pytest.mark.parametrize("after", [0, 1, 7, 20])
def test_what_was_fetched_before_an_interruption_is_not_fetched_again(world: World, after: int) -> None:
    world.release(1, MODEL)
    first, second = Counting(world.depot, after), Counting(world.depot)
    with pytest.raises(Unreachable):
        world.stage(first)
    assert not (world.to / "tiny").exists()
    world.stage(second)
    assert set(first.chunks).isdisjoint(second.chunks)
    assert len(first.chunks) == after


def test_what_an_interrupted_run_left_is_hashed_before_it_is_believed(world: World) -> None:
    world.release(1, MODEL)
    with pytest.raises(Unreachable):
        world.stage(Counting(world.depot, 20))
    partial = next((world.to / ".incoming/tiny").rglob("model.onnx"))
    data = bytearray(partial.read_bytes())
    assert len(data) == len(MODEL)
    data[100] ^= 1
    partial.write_bytes(bytes(data))
    world.stage()
    assert (world.to / "tiny/primary/payload/model/model.onnx").read_bytes() == MODEL


def test_what_was_fetched_of_a_release_that_another_overtook_is_used(world: World) -> None:
    world.release(1, MODEL)
    first, second = Counting(world.depot, 15), Counting(world.depot)
    with pytest.raises(Unreachable):
        world.stage(first)
    world.release(2, MODEL + b"more")
    world.stage(second)
    assert set(first.chunks).isdisjoint(second.chunks)
    assert sorted(path.name for path in (world.to / ".incoming").iterdir()) == ["tiny.lock"]


def test_a_damaged_file_in_place_is_mended_by_its_damaged_chunks_alone(staged_world: World) -> None:
    world = staged_world
    good = world.in_place()
    model = world.to / "tiny/primary/payload/model/model.onnx"
    model.write_bytes(MODEL[:60_000] + b"!" + MODEL[60_001:])
    assert world.stage(believe_disk=True).was_current  # who polls believes what was verified when it came
    staged = world.stage()
    assert (staged.was_current, staged.chunks_moved) == (False, 1)
    assert world.in_place() == good


@pytest.mark.parametrize(
    "lost", ["channel.json", "channel.sig", "primary", "backup/bundle.sig", "backup/payload/io.json"]
)
def test_what_is_missing_in_place_is_brought_back(staged_world: World, lost: str) -> None:
    good = staged_world.in_place()
    place = staged_world.to / "tiny" / lost
    for believe_disk in (True, False):
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        assert not staged_world.stage(believe_disk=believe_disk).was_current
        assert staged_world.in_place() == good


def test_two_that_stage_at_once_leave_one_whole_release(world: World) -> None:
    world.release(1, MODEL)
    done: list[Staged] = []
    threads = [threading.Thread(target=lambda: done.append(world.stage())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.was_current for one in done) == [False, True, True]


# ---- what a depot must not achieve


def _drop(name: str) -> Callable[[World], None]:
    def do(world: World) -> None:
        for path in [path for path in world.depot.files if path.endswith(name)]:
            del world.depot.files[path]

    return do


def _fill(name: str, data: bytes) -> Callable[[World], None]:
    def do(world: World) -> None:
        for path in [path for path in world.depot.files if path.endswith(name)]:
            world.depot.files[path] = data

    return do


def _chunk_changed(world: World) -> None:
    path = world.chunks(NEW)[3]
    world.depot.files[path] = bytes(len(world.depot.files[path]))


def _chunk_grown(world: World) -> None:
    world.depot.files[world.chunks(NEW)[3]] += b"more"


def _chunk_cut(world: World) -> None:
    world.depot.files[world.chunks(NEW)[3]] = b""


def _chunk_lost(world: World) -> None:
    del world.depot.files[world.chunks(NEW)[3]]


def _swap_files(name: str) -> Callable[[World], None]:
    """Offer each bundle's file under the other one's id."""

    def do(world: World) -> None:
        files, channel = world.depot.files, world.offered
        one, other = (bundle_path(channel.ref(role).bundle_id, name) for role in Role)
        files[one], files[other] = files[other], files[one]

    return do


def _other_signer(world: World) -> None:
    world.depot.files[CHANNEL] = Signer(world.to.parent / "other").release(5, MODEL).channel_sig


def _older_channel(world: World) -> None:
    floor = world.signer.release(9, MODEL).channel.floor
    raise_floor(floor_path(world.policy.state_dir, "tiny"), floor)


def _other_model(world: World) -> None:
    channel = replace(world.signer.release(5, MODEL).channel, model="other")
    world.depot.files[CHANNEL] = world.signer.signed(channel, {}).channel_sig


def _publish_changed(**changes: object) -> Callable[[World], None]:
    def do(world: World) -> None:
        world.depot.files[CHANNEL] = world.signer.release(5, MODEL, **changes).channel_sig

    return do


def _revoke_key(world: World) -> None:
    _publish_changed(revoked=Revocations(keys=(key_hint(world.signer.key.public_key()),)))(world)


def _revoke_bundle(world: World) -> None:
    release = world.signer.release(5, MODEL)
    _publish_changed(revoked=Revocations(bundles=(release.channel.backup.bundle_id,)))(world)


def _larger_size(world: World) -> None:
    release = world.signer.release(5, MODEL)
    larger = replace(release.channel, primary=replace(release.channel.primary, size=release.channel.primary.size + 1))
    world.depot.files[CHANNEL] = world.signer.signed(larger, {}).channel_sig


def _mixed_pair(world: World) -> None:
    """The channel of one release, the backup's files of an other."""
    other = world.release(6, MODEL, b"another backup")
    mine = world.signer.release(7, MODEL).channel.backup.bundle_id
    theirs = other.channel.backup.bundle_id
    for name in ("bundle.sig", "contents.sig"):
        world.depot.files[bundle_path(mine, name)] = world.depot.files[bundle_path(theirs, name)]
    world.depot.files[CHANNEL] = world.signer.release(7, MODEL).channel_sig


ATTACKS: list[tuple[Callable[[World], None], type[HotspareError]]] = [
    (_drop("channel.sig"), FileAccess),
    (_drop("bundle.sig"), Tampered),
    (_drop("contents.sig"), Tampered),
    (_fill("channel.sig", b"{}"), Malformed),
    (_fill("channel.sig", bytes(1 + (1 << 20))), Malformed),
    (_fill("bundle.sig", bytes(1 + (1 << 20))), Malformed),
    (_fill("contents.sig", bytes(1 + (4 << 20))), Malformed),
    (_fill("contents.sig", b"[" * 100_000), Malformed),
    (_swap_files("bundle.sig"), Tampered),
    (_swap_files("contents.sig"), Malformed),
    (_chunk_changed, Tampered),
    (_chunk_grown, Malformed),
    (_chunk_cut, Tampered),
    (_chunk_lost, Tampered),
    (_other_signer, SignatureInvalid),
    (_older_channel, RolledBack),
    (_other_model, NotAccepted),
    (_publish_changed(channel="beta"), NotAccepted),
    (_publish_changed(not_after="2026-05-31T12:00:01Z", refresh_by="2026-05-31T12:00:00Z"), Expired),
    (_revoke_key, Revoked),
    (_revoke_bundle, Revoked),
    (_larger_size, Malformed),
    (_mixed_pair, Tampered),
]


@pytest.mark.parametrize(("attack", "error"), ATTACKS)
def test_a_hostile_depot_is_refused_and_what_was_staged_stays(
    staged_world: World, attack: Callable[[World], None], error: type[HotspareError]
) -> None:
    world = staged_world
    before = world.in_place()
    world.release(4, NEW)
    attack(world)
    with pytest.raises(error):
        world.stage()
    assert world.in_place() == before
    _nothing_outside(world)


def _damaged(data: bytes, kind: str, at: float, bit: int) -> bytes:
    place = int(at * len(data))
    return {
        "flipped": data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :],
        "cut": data[:place],
        "grown": data + data[: 1 + place],
        "another": bytes(len(data)),
    }[kind]


@settings(max_examples=25)
@given(
    st.integers(0, 1000),
    st.sampled_from(["flipped", "cut", "grown", "another"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(1, 255),
)
def test_whatever_byte_of_a_depot_is_wrong_no_other_release_is_staged(
    offering: World, which: int, kind: str, at: float, bit: int
) -> None:
    files = dict(offering.depot.files)
    path = sorted(files)[which % len(files)]
    files[path] = _damaged(files[path], kind, at, bit)
    shutil.rmtree(offering.to, ignore_errors=True)
    try:
        stage(MemoryDepot(files), "tiny", offering.policy, offering.to, NOW)
    except Untrusted:
        assert not (offering.to / "tiny").exists()
    channel = load_channel(offering.to / "tiny", offering.policy, NOW) if (offering.to / "tiny").exists() else None
    assert channel is None or channel.channel == offering.offered


def _nothing_outside(world: World) -> None:
    outside = [
        path.name for path in world.to.parent.iterdir() if not path.name.startswith(("signer", "state", "other"))
    ]
    assert outside == ["node"]
    assert sorted(path.name for path in world.to.iterdir()) == [".incoming", "tiny"]
    incoming = sum(path.stat().st_size for path in (world.to / ".incoming").rglob("*") if path.is_file())
    assert incoming <= len(MODEL) + 30_000


@pytest.mark.parametrize("use", [KeyUse.CHANNEL, KeyUse.DRILL])
def test_a_key_for_other_uses_delivers_no_bundle(world: World, use: KeyUse) -> None:
    world.release(1, MODEL)
    policy = world.signer.policy("strict", (KeyUse.CHANNEL, use))
    with pytest.raises(SignatureInvalid):
        stage(world.depot, "tiny", policy, world.to, NOW)


def test_a_release_older_than_the_staged_one_is_refused_before_any_floor_was_set(world: World) -> None:
    old = world.release(1, MODEL)
    world.release(2, MODEL + b"2")
    world.stage()
    world.depot.files[CHANNEL] = old.channel_sig
    with pytest.raises(RolledBack):
        world.stage()


def test_another_channel_of_the_staged_number_is_refused(world: World) -> None:
    world.release(2, MODEL)
    world.stage()
    world.depot.files[CHANNEL] = world.signer.release(2, MODEL + b"2").channel_sig
    with pytest.raises(RolledBack, match="differs"):
        world.stage()


def test_a_bundle_that_this_node_cannot_run_is_fetched_once(world: World) -> None:
    files = payload("primary", MODEL)
    files["bundle.json"] = files["bundle.json"].replace(b'"min_ram_mb": ', b'"min_ram_mb": 99999999')
    bundles = {Role.PRIMARY: world.signer.bundle(files), Role.BACKUP: world.signer.bundle(payload("backup", b"b"))}
    channel = world.signer.release(1, MODEL).channel
    refs = {"primary": reference(bundles[Role.PRIMARY]), "backup": reference(bundles[Role.BACKUP])}
    world.publish(world.signer.signed(replace(channel, **refs), bundles))
    for chunks in (len(world.chunks(MODEL)), 0):
        counted = Counting(world.depot)
        with pytest.raises(NotAccepted):
            world.stage(counted)
        assert len(counted.chunks) >= chunks
        assert chunks or not counted.chunks
    assert not (world.to / "tiny").exists()


def test_a_link_planted_for_a_partial_file_is_not_written_through(world: World, tmp_path: Path) -> None:
    release = world.release(1, MODEL)
    victim = tmp_path / "signer" / "victim"
    victim.write_bytes(b"precious")
    place = world.to / ".incoming/tiny" / release.channel.primary.bundle_id / "payload/model/model.onnx"
    place.parent.mkdir(parents=True)
    place.symlink_to(victim)
    with pytest.raises(FileAccess):
        world.stage()
    assert victim.read_bytes() == b"precious"


def test_a_disk_that_takes_a_part_of_a_chunk_before_it_is_full_is_full(tmp_path: Path, monkeypatch) -> None:
    """A disk that fills up takes what still fits, and says that it is full when it is asked to take the rest."""
    room = [1000, 500]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(descriptor, bytes(data)[: room.pop()])

    (tmp_path / "model").write_bytes(b"")
    monkeypatch.setattr("pipeline.delivery.assembling.os.pwrite", pwrite)
    with pytest.raises(OutOfSpace):
        write_chunk([Place(tmp_path / "model", 0)], b"x" * 4096)
    room[:] = [3000, 1096]
    write_chunk([Place(tmp_path / "model", 0)], b"y" * 4096)
    assert (tmp_path / "model").read_bytes() == b"y" * 4096


def test_a_full_disk_says_so_and_the_next_run_goes_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.release(1, MODEL)
    written, real = [], os.pwrite

    def fills(descriptor: int, data: bytes, offset: int) -> int:
        if len(written) == 10:
            raise OSError(28, "No space left on device")
        written.append(hashlib.sha256(data).hexdigest())
        return real(descriptor, data, offset)

    monkeypatch.setattr("pipeline.delivery.assembling.os.pwrite", fills)
    with pytest.raises(OutOfSpace):
        world.stage()
    monkeypatch.undo()
    counted = Counting(world.depot)
    world.stage(counted)
    assert {chunk_path(digest) for digest in written}.isdisjoint(counted.chunks)


# ---- the drill's attestation comes along where it can be believed


def test_the_attestation_of_this_pair_is_staged(world: World) -> None:
    release = world.signer.release(1, MODEL)
    drill = drilled(world.signer, release.channel, world.policy)
    world.publish(release, attestation=drill)
    world.stage()
    assert world.in_place()["drill.json"] == drill


@pytest.mark.parametrize("bad", ["other pair", "other key", "nonsense", "too large"])
def test_an_attestation_that_cannot_be_believed_stays_where_it_is(world: World, bad: str) -> None:
    release = world.release(1, MODEL)
    other = Signer(world.to.parent / "other")
    drill = {
        "other pair": lambda: drilled(world.signer, world.signer.release(1, MODEL, b"another").channel, world.policy),
        "other key": lambda: drilled(other, release.channel, other.policy()),
        "nonsense": lambda: b"{}",
        "too large": lambda: b" " * (SMALL_BYTES_MAX + 1),
    }[bad]()
    world.depot.files[bundle_path(release.channel.primary.bundle_id, "drill.json")] = drill
    world.stage()
    assert "drill.json" not in world.in_place()


def test_every_refusal_is_untrusted_or_of_the_surroundings() -> None:
    assert all(issubclass(error, (Untrusted, FileAccess)) for _, error in ATTACKS)
