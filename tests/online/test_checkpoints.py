"""A key for updates seals checkpoints of its model, and nothing else: every step beyond that is refused."""

import json
from dataclasses import replace

import model_signing
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from learned import TIP, updates_of
from sealed import NOW, tiny_channel, tiny_rows, write_channel

from pipeline.bundle.learning import read_learning
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import load_channel, verify_bundle, verify_checkpoint
from pipeline.commands.build.keys import policy_text
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import Malformed, NotAccepted, RolledBack, SignatureInvalid, Tampered, TrustPolicyError
from pipeline.online.checkpoints import load_checkpoint
from pipeline.online.trunk import Trunk


def test_a_checkpoint_is_verified_loaded_and_answers_with_what_was_learned(learning, genuine, sealed_as) -> None:
    loaded = load_checkpoint(sealed_as(genuine), learning.base(), learning.policy(), TIP)
    rows = tiny_rows(20)
    before = verify_bundle(learning.base_folder, learning.policy(), NOW)
    assert loaded.bundle.io == before.io
    head = np.frombuffer(loaded.bundle.model_file, "<f4", 16, read_learning(before.files).weights.start)
    expected = 1 / (1 + np.exp(-(Trunk(before.model_file)(rows) @ head + 0.5)))
    np.testing.assert_allclose(loaded.session.run(rows)["probability"].reshape(-1), expected, atol=1e-5)


def test_model_signing_verifies_a_checkpoint_too(learning, genuine, sealed_as) -> None:
    folder = sealed_as(genuine)
    public = learning.folder / "update-keys" / "signing.pub"
    every_file = model_signing.hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    verifying = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=public)
    verifying.set_hashing_config(every_file).verify(folder / "payload", folder / "bundle.sig")


def test_a_checkpoint_is_no_bundle_that_stands_alone(learning, genuine, sealed_as) -> None:
    with pytest.raises(SignatureInvalid, match="does not pin for this use"):
        verify_bundle(sealed_as(genuine), learning.policy(), NOW)


def test_a_checkpoint_is_no_base_of_another_checkpoint(learning, genuine, sealed_as) -> None:
    folder = sealed_as(genuine)
    checkpoint = verify_checkpoint(folder, learning.base(), learning.policy(), NOW)
    with pytest.raises(NotAccepted, match="never a checkpoint"):
        verify_checkpoint(folder, checkpoint, learning.policy(), NOW)


def test_a_key_for_updates_signs_no_channel(learning, tmp_path) -> None:
    write_channel(tmp_path / "channel", tiny_channel(), learning.update_key)
    with pytest.raises(SignatureInvalid):
        load_channel(tmp_path / "channel", learning.policy(), NOW)


@pytest.mark.parametrize("which", ["bundle_key", "stranger"])
def test_only_a_key_for_updates_seals_checkpoints(learning, genuine, sealed_as, which: str) -> None:
    key = learning.bundle_key if which == "bundle_key" else ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(SignatureInvalid):
        verify_checkpoint(sealed_as(genuine, key), learning.base(), learning.policy(), NOW)


def test_the_key_of_another_models_updates_is_refused(learning, genuine, sealed_as, tmp_path) -> None:
    text = policy_text(learning.bundle_key.public_key(), ("other", "tiny"))
    (tmp_path / "trust.yaml").write_text(text + updates_of(learning.update_key.public_key(), "other"))
    with pytest.raises(SignatureInvalid):
        verify_checkpoint(sealed_as(genuine), learning.base(), load_policy(tmp_path / "trust.yaml"), NOW)


def changed(payload: dict[str, bytes], name: str, **fields: object) -> dict[str, bytes]:
    return {**payload, name: json.dumps({**json.loads(payload[name]), **fields}).encode()}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("bundle.json", {"model": "other"}),
        ("bundle.json", {"licence": "none"}),
        ("bundle.json", {"parent": {"name": "dense.f32", "sha256": "0" * 64}}),
        ("io.json", {"notes": "anything goes"}),
        ("learning.json", {"weight_max": 1e6}),
        ("scorecard.json", {"task": "better"}),
        ("checkpoint.json", {"base": "0" * 64}),
    ],
)
def test_a_key_for_updates_changes_no_other_description(learning, genuine, sealed_as, name: str, fields: dict) -> None:
    folder = sealed_as(changed(genuine, name, **fields))
    with pytest.raises((NotAccepted, Malformed)):
        verify_checkpoint(folder, learning.base(), learning.policy(), NOW)


def test_another_io_contract_with_a_manifest_that_fits_it_is_refused(learning, genuine, sealed_as) -> None:
    forged = changed(genuine, "io.json", notes="anything goes")
    forged = changed(forged, "bundle.json", io_contract_sha256=sha256_hex(forged["io.json"]))
    with pytest.raises(NotAccepted, match=r"bundle\.json"):
        verify_checkpoint(sealed_as(forged), learning.base(), learning.policy(), NOW)


def test_no_frozen_byte_of_the_model_may_change(learning, genuine, sealed_as) -> None:
    base = learning.base()
    spans = read_learning(base.files).spans
    for place in (0, spans[0].start - 1, spans[0].end, spans[1].start - 1, spans[1].end, len(base.model_file) - 1):
        model = bytearray(genuine["model/model.tflite"])
        model[place] ^= 1
        with pytest.raises(NotAccepted, match="lets learn"):
            verify_checkpoint(sealed_as({**genuine, "model/model.tflite": bytes(model)}), base, learning.policy(), NOW)


@pytest.mark.parametrize("extra", [{"model/more.bin": b"x"}, {"golden/canaries.json": b"{}"}])
def test_files_that_are_not_the_bases_are_refused(learning, genuine, sealed_as, extra: dict) -> None:
    with pytest.raises(NotAccepted, match="may not"):
        verify_checkpoint(sealed_as({**genuine, **extra}), learning.base(), learning.policy(), NOW)


def test_a_base_that_lets_nothing_learn_has_no_checkpoints(learning, genuine, sealed_as) -> None:
    base = learning.base()
    closed = replace(base, files={name: data for name, data in base.files.items() if name != "learning.json"})
    payload = {name: data for name, data in genuine.items() if name != "learning.json"}
    with pytest.raises(NotAccepted, match="nothing of it may learn"):
        verify_checkpoint(sealed_as(payload), closed, learning.policy(), NOW)


def test_a_checkpoint_blown_up_is_refused_before_it_is_read(learning, genuine, sealed_as) -> None:
    with pytest.raises(Tampered, match="more than"):
        verify_checkpoint(sealed_as({**genuine, "LICENSE": bytes(1 << 20)}), learning.base(), learning.policy(), NOW)


def test_a_genuine_checkpoint_of_an_older_place_in_the_log_is_not_loaded(learning, genuine, sealed_as) -> None:
    with pytest.raises(RolledBack):
        load_checkpoint(sealed_as(genuine), learning.base(), learning.policy(), replace(TIP, seq=6))


def test_a_policy_gives_a_key_for_updates_no_other_use(learning, tmp_path) -> None:
    text = policy_text(learning.bundle_key.public_key(), ("tiny",))
    for key, models in ((learning.bundle_key, "tiny"), (learning.update_key, "unknown")):
        (tmp_path / "trust.yaml").write_text(text + updates_of(key.public_key(), models))
        with pytest.raises(TrustPolicyError, match=r"updates\.learner"):
            load_policy(tmp_path / "trust.yaml")
