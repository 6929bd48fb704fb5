import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sealed import NOW, Sealed, tiny_channel, tiny_payload, write_channel

from pipeline.bundle import verify as verify_room
from pipeline.bundle.channel import BundleRef
from pipeline.bundle.floor import floor_path, read_floor
from pipeline.bundle.statement import bundle_id
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import NotAccepted, Tampered, UsageError
from pipeline.core.names import Format, Role
from pipeline.runtime import release as release_room
from pipeline.runtime.members import Seat
from pipeline.runtime.release import Places, accept, disk_problems, is_renewed, open_release, require_one_contract
from pipeline.seal.signing import seal_bundle


@pytest.fixture
def files(pair: Sealed, tmp_path: Path) -> Sealed:
    shutil.copytree(pair.folder, tmp_path / "files", ignore=shutil.ignore_patterns("state"))
    return Sealed(tmp_path / "files", pair.key)


def places(files: Sealed, channel: bool = False) -> Places:
    return Places(files.primary, files.backup, files.trust, files.channel if channel else None)


def spoil(folder: Path) -> None:
    model = next(folder.rglob("model.*"))
    model.write_bytes(model.read_bytes()[:-1] + b"!")


def test_both_sides_are_verified_and_the_version_is_the_primarys(files: Sealed) -> None:
    release = open_release(places(files), NOW, strict=True)
    assert set(release.bundles) == set(Role)
    assert release.bundles[Role.PRIMARY].bundle_id.startswith(release.version)
    assert release.refused == {}
    again, under_channel = (open_release(places(files, channel=one), NOW, strict=True) for one in (False, True))
    assert release.has_same_bundles_as(again) and release.has_same_channel_as(again)
    assert release.has_same_bundles_as(under_channel) and not release.has_same_channel_as(under_channel)


@pytest.mark.parametrize("role", list(Role))
def test_a_refused_side_is_left_out_and_named_only_after_a_restart(files: Sealed, role: Role) -> None:
    spoil(places(files).bundle(role))
    with pytest.raises(Tampered):
        open_release(places(files), NOW, strict=True)
    release = open_release(places(files), NOW, strict=False)
    assert set(release.refused) == {role}
    assert set(release.bundles) == set(Role) - {role}
    assert release.io is release.bundles[next(iter(release.bundles))].io
    assert set(disk_problems(release, NOW)) == {role}


def test_a_pair_without_a_side_is_refused_always(files: Sealed) -> None:
    spoil(files.primary)
    spoil(files.backup)
    with pytest.raises(Tampered):
        open_release(places(files), NOW, strict=False)


def test_a_policy_that_wants_channels_is_not_served_without_one(files: Sealed) -> None:
    files.trust.write_text(files.trust.read_text() + "channels: channels\n")
    with pytest.raises(UsageError, match="--channel"):
        open_release(places(files), NOW, strict=True)
    assert open_release(places(files, channel=True), NOW, strict=True).channel is not None


def test_with_a_channel_roles_cannot_be_exchanged(files: Sealed) -> None:
    exchanged = replace(places(files, channel=True), primary=files.backup, standby=files.primary)
    with pytest.raises(NotAccepted):
        open_release(exchanged, NOW, strict=True)


def test_sides_of_two_models_are_no_pair(files: Sealed) -> None:
    bundles = dict(open_release(places(files), NOW, strict=True).bundles)
    other = replace(bundles[Role.BACKUP], model="other")
    with pytest.raises(NotAccepted, match="one model's pair"):
        require_one_contract({**bundles, Role.BACKUP: other})
    odd = replace(other.io, inputs=(replace(other.io.inputs[0], name="other"),))
    with pytest.raises(NotAccepted, match="different tensors"):
        require_one_contract({**bundles, Role.BACKUP: replace(bundles[Role.BACKUP], io=odd)})


def test_disk_problems_name_the_side_that_would_not_load_now_and_go_when_it_is_repaired(files: Sealed) -> None:
    release = open_release(places(files), NOW, strict=True)
    assert disk_problems(release, NOW) == {}
    aside = files.folder / "aside"
    files.backup.rename(aside)
    assert set(disk_problems(release, NOW)) == {Role.BACKUP}
    aside.rename(files.backup)
    spoil(files.primary)
    assert disk_problems(release, NOW)[Role.PRIMARY].startswith("Tampered: ")


def test_the_floor_rises_only_when_a_release_with_a_channel_is_accepted(files: Sealed) -> None:
    floor = floor_path(files.folder / "state", "tiny")
    accept(open_release(places(files), NOW, strict=True))
    assert not floor.exists()
    release = open_release(places(files, channel=True), NOW, strict=True)
    assert not floor.exists()
    accept(release)
    kept = read_floor(floor)
    assert kept is not None
    assert kept.seq == 7


def test_a_worker_is_told_where_its_own_bundle_is(files: Sealed) -> None:
    release = open_release(places(files, channel=True), NOW, strict=True)
    spec = release.worker_spec(Seat(Role.BACKUP), 3, 9, True, 64)
    assert (spec.bundle, spec.channel) == (str(files.backup), str(files.channel))
    assert (spec.incarnation, spec.term, spec.then_load, spec.memory_mb) == (3, 9, True, 64)
    assert spec.threads == release.bundles[Role.BACKUP].manifest.runtime.threads


def staged(pair: Sealed, folder: Path, seq: int) -> Path:
    """Lay a release out as staging does; its primary differs by its seq."""
    payload = {**tiny_payload(Format.ONNX), "NOTES.md": str(seq).encode()}
    seal_bundle(folder / "primary", payload, pair.key)
    shutil.copytree(pair.backup, folder / "backup")
    digests = tuple((name, sha256_hex(data)) for name, data in payload.items())
    primary = BundleRef(bundle_id(digests), sum(map(len, payload.values())))
    write_channel(folder, tiny_channel(seq=seq, primary=primary), pair.key)
    return folder


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("moment", ["load_channel", "verify_served"])
def test_a_release_that_is_exchanged_while_it_is_read_is_read_again_and_nothing_of_two_is_mixed(
    files: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, strict: bool
) -> None:
    place, coming = staged(files, tmp_path / "tiny", 8), staged(files, tmp_path / "coming", 9)
    real, calls = getattr(release_room, moment), []

    def exchanged(*args: object) -> object:
        found = real(*args)
        if not calls:
            calls.append(place.rename(tmp_path / "gone"))
            coming.rename(place)
        return found

    monkeypatch.setattr(release_room, moment, exchanged)
    where = Places(place / "primary", place / "backup", files.trust, place)
    release = open_release(where, NOW, strict)
    assert (release.channel is not None and release.channel.channel.seq, release.refused) == (9, {})
    assert release.bundles[Role.PRIMARY].files["NOTES.md"] == b"9"


def test_a_release_that_is_exchanged_while_the_disk_is_looked_at_is_no_forgery(
    files: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signature of the old release beside the files of the new one: somebody was called for nothing."""
    place, coming = staged(files, tmp_path / "tiny", 8), staged(files, tmp_path / "coming", 9)
    release = open_release(Places(place / "primary", place / "backup", files.trust, place), NOW, strict=True)
    real, calls = verify_room.read_payload, []

    def exchanged(*args: object) -> object:
        if not calls:
            calls.append(place.rename(tmp_path / "gone"))
            coming.rename(place)
        return real(*args)

    monkeypatch.setattr(verify_room, "read_payload", exchanged)
    problems = disk_problems(release, NOW)
    assert problems.keys() == {Role.PRIMARY}
    assert "lies there by now" in problems[Role.PRIMARY]


def test_a_renewed_channel_is_noticed_and_one_that_is_not_accepted_is_none(files: Sealed) -> None:
    release = open_release(places(files, channel=True), NOW, strict=True)
    assert not is_renewed(release, NOW)
    write_channel(files.channel, tiny_channel(seq=8), files.key)
    assert is_renewed(release, NOW)
    write_channel(
        files.channel,
        tiny_channel(seq=9, not_after="2026-05-31T13:00:00Z", refresh_by="2026-05-31T13:00:00Z"),
        files.key,
    )
    assert not is_renewed(release, NOW)
