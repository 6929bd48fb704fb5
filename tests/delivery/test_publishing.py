"""Publishing writes what is new, the channel last; a kill leaves the old channel, and again is as if it were once."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from depots import NOW, Release, Signer, drilled

from pipeline.bundle.channel import Revocations
from pipeline.bundle.policy import KeyUse
from pipeline.bundle.public_key import key_hint
from pipeline.commands.build.publishing import Published, publish, publish_release
from pipeline.core.errors import KeyFileError, NotAccepted, RolledBack, SignatureInvalid, Tampered, UsageError
from pipeline.core.names import Role
from pipeline.delivery.contents import CONTENTS_BYTES_MAX
from pipeline.delivery.depot import CONTENTS_FILE, bundle_path, channel_path
from pipeline.delivery.staging import stage
from pipeline.delivery.transports.memory import MemoryDepot

MODEL = np.random.default_rng(0).bytes(60_000)
CHANNEL = channel_path("tiny")


@pytest.fixture
def depot() -> MemoryDepot:
    return MemoryDepot()


def put(depot: object, signer: Signer, release: Release, **changes: object) -> Published:
    given = {"key": signer.key, "trust": signer.policy(), **changes}
    return publish(depot, release.channel_sig, release.bundles, **given)


@dataclass
class Dying:
    """A depot whose writer is killed at the nth write."""

    depot: MemoryDepot
    writes_left: int
    address: str = "memory"
    lanes: int = 1

    def read(self, path: str, bytes_max: int) -> bytes | None:
        return self.depot.read(path, bytes_max)

    def size(self, path: str) -> int | None:
        return self.depot.size(path)

    def write(self, path: str, data: bytes) -> None:
        if self.writes_left == 0:
            raise KeyboardInterrupt
        self.writes_left -= 1
        self.depot.write(path, data)


def test_what_is_published_can_be_staged_from_a_folder_too(signer: Signer, tmp_path: Path) -> None:
    from pipeline.delivery.transports.opening import open_depot

    release = signer.release(1, MODEL)
    done = publish_release(str(tmp_path / "depot"), release.channel_sig, release.bundles, signer.key, signer.policy())
    files = [path for path in (tmp_path / "depot").rglob("*") if path.is_file()]
    assert done.bytes_new == sum(path.stat().st_size for path in files)
    assert done.chunks_new == sum("chunks" in path.parts for path in files)
    assert done.bytes_total == release.channel.primary.size + release.channel.backup.size
    with open_depot(str(tmp_path / "depot")) as depot:
        assert stage(depot, "tiny", signer.policy(), tmp_path / "node", NOW).bytes_moved == done.bytes_new


def test_the_same_release_again_writes_nothing(signer: Signer, depot: MemoryDepot) -> None:
    release = signer.release(1, MODEL)
    put(depot, signer, release)
    before = dict(depot.files)
    assert put(depot, signer, release).bytes_new == 0
    assert depot.files == before


def test_the_next_release_writes_what_is_new_and_leaves_the_old_one_whole(signer: Signer, depot: MemoryDepot) -> None:
    put(depot, signer, signer.release(1, MODEL))
    before = dict(depot.files)
    done = put(depot, signer, signer.release(2, MODEL[:30_000] + b"new" + MODEL[30_000:]))
    assert 1 <= done.chunks_new <= 5
    assert {path: depot.files[path] for path in before if path != CHANNEL} == {
        path: data for path, data in before.items() if path != CHANNEL
    }


def test_what_the_depot_lost_or_cut_is_put_right(signer: Signer, depot: MemoryDepot, tmp_path: Path) -> None:
    release = signer.release(1, MODEL)
    put(depot, signer, release)
    whole = dict(depot.files)
    lost, cut, *_ = (path for path in whole if path.startswith("chunks/"))
    del depot.files[lost]
    depot.files[cut] = whole[cut][:-1]
    depot.files[bundle_path(release.channel.backup.bundle_id, "bundle.sig")] = b""
    assert put(depot, signer, release).chunks_new == 2
    assert depot.files == whole


def test_killed_at_any_write_the_old_release_stays_in_force_and_the_next_run_finishes(
    signer: Signer, depot: MemoryDepot, tmp_path: Path
) -> None:
    put(depot, signer, signer.release(1, MODEL))
    new = signer.release(2, MODEL[::-1])
    writes, is_killed = 0, True
    while is_killed:
        dying = Dying(MemoryDepot(dict(depot.files)), writes)
        try:
            put(dying, signer, new)
            is_killed = False
        except KeyboardInterrupt:
            assert dying.depot.files[CHANNEL] == depot.files[CHANNEL]
            put(dying.depot, signer, new)
        assert dying.depot.files[CHANNEL] == new.channel_sig
        writes += 7 if is_killed and writes > 3 else 1
    assert writes > 15
    assert stage(dying.depot, "tiny", signer.policy(), tmp_path / "node", NOW).seq == 2


def test_an_older_channel_does_not_replace_a_newer_one(signer: Signer, depot: MemoryDepot) -> None:
    old, new = signer.release(1, MODEL), signer.release(2, MODEL)
    put(depot, signer, new)
    with pytest.raises(RolledBack):
        put(depot, signer, old)
    with pytest.raises(RolledBack, match="differs"):
        put(depot, signer, signer.release(2, MODEL, b"another"))
    assert depot.files[CHANNEL] == new.channel_sig


def test_a_depot_of_another_signer_is_left_alone(signer: Signer, depot: MemoryDepot, tmp_path: Path) -> None:
    other = Signer(tmp_path / "other")
    put(depot, other, other.release(1, MODEL))
    with pytest.raises(SignatureInvalid):
        put(depot, signer, signer.release(2, MODEL))


def test_a_channel_that_a_kill_cut_short_is_written_over(signer: Signer, depot: MemoryDepot) -> None:
    release = signer.release(1, MODEL)
    depot.files[CHANNEL] = release.channel_sig[:100]
    put(depot, signer, release)
    assert depot.files[CHANNEL] == release.channel_sig


def test_contents_that_somebody_blew_up_are_written_over(signer: Signer, depot: MemoryDepot) -> None:
    """Publishing said "publish it again", and said it again: the release could not be published any more."""
    release = signer.release(1, MODEL)
    put(depot, signer, release)
    path = bundle_path(release.channel.primary.bundle_id, CONTENTS_FILE)
    whole = depot.files[path]
    depot.files[path] = b" " * (CONTENTS_BYTES_MAX + 1)
    assert put(depot, signer, release).bytes_new == len(depot.files[path])
    assert len(depot.files[path]) < 2 * len(whole)


def test_other_bundles_than_the_channels_are_not_published(signer: Signer, depot: MemoryDepot) -> None:
    release, other = signer.release(1, MODEL), signer.release(2, MODEL[::-1])
    with pytest.raises(NotAccepted, match="not the primary"):
        put(depot, signer, replace(release, bundles=other.bundles))
    swapped = {Role.PRIMARY: release.bundles[Role.BACKUP], Role.BACKUP: release.bundles[Role.PRIMARY]}
    with pytest.raises(NotAccepted):
        put(depot, signer, replace(release, bundles=swapped))
    assert CHANNEL not in depot.files


def test_a_bundle_that_was_changed_after_it_was_signed_is_not_published(signer: Signer, depot: MemoryDepot) -> None:
    release = signer.release(1, MODEL)
    model = release.bundles[Role.PRIMARY] / "payload/model/model.onnx"
    model.write_bytes(MODEL[:-1] + b"!")
    with pytest.raises(Tampered):
        put(depot, signer, release)
    assert [path for path in depot.files if not path.startswith("chunks/")] == []


def test_a_key_that_nodes_would_not_believe_signs_nothing(signer: Signer, depot: MemoryDepot) -> None:
    for policy in (signer.policy(uses=(KeyUse.CHANNEL,)), Signer(signer.folder).policy()):
        with pytest.raises(KeyFileError):
            put(depot, signer, signer.release(1, MODEL), trust=policy)
    assert depot.files == {}


def test_contents_by_a_key_that_is_revoked_are_signed_anew(signer: Signer, depot: MemoryDepot, tmp_path: Path) -> None:
    """The bundle's signature too is of the old key: renewed, the same bundle travels under the new one."""
    release = signer.release(1, MODEL)
    put(depot, signer, release)
    new = Signer(signer.folder)
    both = replace(new.policy(), keys=(*new.policy().keys, *signer.policy().keys))
    again = new.release(2, MODEL, revoked=Revocations(keys=(key_hint(signer.key.public_key()),)))
    done = put(depot, new, again, trust=both)
    assert done.chunks_new == 0
    assert stage(depot, "tiny", both, tmp_path / "node", NOW).seq == 2


def test_after_a_rotation_nothing_of_the_old_key_is_left_that_a_node_would_need(
    signer: Signer, depot: MemoryDepot, tmp_path: Path
) -> None:
    put(depot, signer, signer.release(1, MODEL))
    new = Signer(signer.folder)
    both = replace(new.policy(), keys=new.policy().keys + signer.policy().keys)
    again = new.release(2, MODEL)
    put(depot, new, again, trust=both)
    old = key_hint(signer.key.public_key()).encode()
    assert not [name for name, data in depot.files.items() if name.endswith(".sig") and old in data]
    assert stage(depot, "tiny", new.policy("new"), tmp_path / "to", NOW)
    assert put(depot, new, again, trust=both).bytes_new == 0


def test_an_attestation_of_another_pair_is_not_published(signer: Signer, depot: MemoryDepot) -> None:
    release = signer.release(1, MODEL)
    other = drilled(signer, signer.release(1, MODEL, b"another").channel, signer.policy())
    with pytest.raises(NotAccepted, match="another pair"):
        put(depot, signer, release, attestation=other)


def test_nothing_is_published_to_a_web_address(signer: Signer) -> None:
    release = signer.release(1, MODEL)
    with pytest.raises(UsageError):
        publish_release("http://127.0.0.1:1/", release.channel_sig, release.bundles, signer.key, signer.policy())
