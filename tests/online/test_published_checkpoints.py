"""Checkpoints behind a server: published whole with their base, verified as what they are, moved to under load."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learned import TIP, learning_base
from sealed import NOW, Sealed, tiny_channel, tiny_payload, write_channel
from serving import ROWS, Clients, Starter, starting

from pipeline.bundle.channel import BundleRef
from pipeline.bundle.served import BASE, CHECKPOINT, verify_served
from pipeline.bundle.verify import VerifiedChannel, load_channel, verify_bundle
from pipeline.core.errors import FileAccess, NotAccepted, Revoked, SignatureInvalid, Tampered, UsageError
from pipeline.core.names import Format, Role
from pipeline.engines.open import open_session
from pipeline.online.checkpoints import checkpoint_payload, seal_checkpoint
from pipeline.online.learner import Head
from pipeline.online.publishing import publish
from pipeline.seal.signing import seal_bundle


class Learner:
    """A member's folder: whatever state is asked for, as a sealed checkpoint; and the files of a pair around it."""

    def __init__(self, folder: Path) -> None:
        self.learning = learning_base(folder)
        self.files = Sealed(folder, self.learning.bundle_key)
        self.checkpoint = folder / "member" / CHECKPOINT
        seal_bundle(self.files.backup, tiny_payload(Format.ONNX), self.learning.bundle_key)

    def publish(self, seq: int) -> str:
        """Publish a checkpoint whose answers depend on ``seq`` as the primary; return its bundle id."""
        base = self.learning.base()
        head = Head(np.full(16, seq / 100, "<f4").tobytes(), np.float32(seq / 10).tobytes())
        payload = checkpoint_payload(base, head, replace(TIP, seq=seq))
        seal_checkpoint(self.checkpoint, payload, self.learning.update_key)
        place = self.learning.base_folder, self.checkpoint
        return publish(*place, self.learning.policy(), self.files.primary).bundle_id

    def answers(self) -> np.ndarray:
        """Return what the published checkpoint answers to the clients' rows."""
        served = verify_served(self.files.primary, self.learning.policy(), NOW)
        session = open_session(Format.TFLITE, served.model_file)
        return next(iter(session.run({"features": ROWS}).values()))


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    return Learner(tmp_path / "files")


@pytest.fixture
def service(learner: Learner, tmp_path: Path) -> Iterator[Starter]:
    yield from starting(learner.files, tmp_path)


@pytest.mark.slow
def test_a_server_moves_from_checkpoint_to_checkpoint_under_load_and_loses_nothing(
    learner: Learner, service: Starter
) -> None:
    published = {learner.publish(1): learner.answers()}
    served = service(admin=True, files=learner.files)
    served.until_whole()
    with Clients(served) as clients:
        for seq in (2, 3, 4):
            identity = learner.publish(seq)
            published[identity] = learner.answers()
            assert served.admin("swap").status == 200
            served.until(lambda pair, now=identity: pair["version"] == now[:12])
            clients.more()
    assert clients.lost == []
    of_primary = [one for one in clients.answers if one.role == "primary"]
    assert {one.headers["hotspare-bundle-id"] for one in of_primary} == published.keys()
    for one in of_primary:
        expected = published[one.headers["hotspare-bundle-id"]][one.row]
        np.testing.assert_allclose(one.outputs.reshape(-1), expected.reshape(-1), atol=1e-5)


@pytest.mark.slow
def test_a_checkpoint_tampered_with_is_not_moved_to(learner: Learner, service: Starter) -> None:
    identity = learner.publish(1)
    served = service(admin=True, files=learner.files)
    served.until_whole()
    learner.publish(2)
    model = learner.files.primary / CHECKPOINT / "payload" / "model" / "model.tflite"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    assert served.admin("swap").status != 200
    assert served.infer_by(Role.PRIMARY).headers["hotspare-bundle-id"] == identity


@pytest.fixture
def channel(learner: Learner, tmp_path: Path) -> Callable[..., VerifiedChannel]:
    """Return a verified channel whose primary is the base."""
    base = verify_bundle(learner.learning.base_folder, learner.learning.policy(), NOW)

    def load(**changes: object) -> VerifiedChannel:
        named = {"primary": BundleRef(base.bundle_id, base.size), **changes}
        write_channel(tmp_path / "channel", tiny_channel(**named), learner.learning.bundle_key)
        return load_channel(tmp_path / "channel", learner.learning.policy(), NOW)

    return load


def test_a_channel_that_names_the_base_gives_its_checkpoint_the_role(learner: Learner, channel: Callable) -> None:
    identity = learner.publish(1)
    served = verify_served(learner.files.primary, learner.learning.policy(), NOW, channel(), Role.PRIMARY)
    assert (served.bundle_id, served.role) == (identity, Role.PRIMARY)
    with pytest.raises(NotAccepted):
        verify_served(learner.files.primary, learner.learning.policy(), NOW, channel(), Role.BACKUP)


def test_a_checkpoint_is_revoked_alone_or_with_its_base(learner: Learner, channel: Callable) -> None:
    identity = learner.publish(1)
    base = learner.learning.base().bundle_id
    for revoked in (identity, base):
        accepted = channel()
        listed = replace(accepted.channel.revoked, bundles=(revoked,))
        told = replace(accepted, channel=replace(accepted.channel, revoked=listed))
        with pytest.raises(Revoked):
            verify_served(learner.files.primary, learner.learning.policy(), NOW, told)


@pytest.mark.parametrize("part", [BASE, CHECKPOINT])
def test_no_part_may_be_changed_or_stand_for_the_other(learner: Learner, part: str) -> None:
    learner.publish(1)
    place = learner.files.primary / part
    model = place / "payload" / "model" / "model.tflite"
    genuine = model.read_bytes()
    model.write_bytes(genuine[:-1] + b"!")
    with pytest.raises(Tampered):
        verify_served(learner.files.primary, learner.learning.policy(), NOW)
    model.write_bytes(genuine)
    other = learner.files.primary / (BASE if part == CHECKPOINT else CHECKPOINT)
    place.rename(place.with_name("aside"))
    other.rename(place)
    place.with_name("aside").rename(other)
    with pytest.raises(SignatureInvalid):
        verify_served(learner.files.primary, learner.learning.policy(), NOW)


def test_a_member_without_a_checkpoint_has_nothing_to_publish(learner: Learner, tmp_path: Path) -> None:
    with pytest.raises(FileAccess, match="checkpoint"):
        publish(learner.learning.base_folder, tmp_path / "checkpoint", learner.learning.policy(), tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_folder_that_holds_something_else_is_left_alone(learner: Learner, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "thesis.txt").write_text("irreplaceable")
    learner.publish(1)
    with pytest.raises(UsageError, match="something else"):
        publish(learner.learning.base_folder, learner.checkpoint, learner.learning.policy(), tmp_path / "to")
    assert (tmp_path / "to" / "thesis.txt").exists()
