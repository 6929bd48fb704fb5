import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing, verifying
from sealed import NOW, Sealed, tiny_payload

from pipeline.bundle.policy import load_policy
from pipeline.bundle.public_key import public_pem
from pipeline.bundle.reading import PAYLOAD
from pipeline.bundle.verify import verify_bundle
from pipeline.commands.build.keys import policy_text
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import OutOfSpace
from pipeline.core.names import Format
from pipeline.seal.keys import private_pem
from pipeline.seal.signing import seal_bundle


def library_verifies(bundle: Path, key: ec.EllipticCurvePublicKey, scratch: Path) -> None:
    (scratch / "key.pub").write_text(public_pem(key))
    config = verifying.Config().use_elliptic_key_verifier(public_key=scratch / "key.pub")
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
    config.verify(bundle / PAYLOAD, bundle / "bundle.sig")


def test_what_we_seal_the_library_verifies(template: Sealed, tmp_path: Path) -> None:
    library_verifies(template.backup, template.key.public_key(), tmp_path)


def test_what_the_library_refuses_it_refuses_of_ours_too(template: Sealed, tmp_path: Path) -> None:
    with pytest.raises((InvalidSignature, ValueError)):
        library_verifies(template.backup, ec.generate_private_key(ec.SECP256R1()).public_key(), tmp_path)


def test_what_the_library_signs_we_verify_once_it_is_canonical(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    bundle = tmp_path / "bundle"
    for name, data in tiny_payload(Format.TFLITE).items():
        (bundle / PAYLOAD / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / PAYLOAD / name).write_bytes(data)
    config = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False))
    config.sign(bundle / PAYLOAD, bundle / "bundle.sig")
    (bundle / "bundle.sig").write_bytes(canonical_json(json.loads((bundle / "bundle.sig").read_bytes())))
    (tmp_path / "trust.yaml").write_text(policy_text(key.public_key(), ("tiny",)))
    assert verify_bundle(bundle, load_policy(tmp_path / "trust.yaml"), NOW).files == tiny_payload(Format.TFLITE)


def test_two_seals_of_one_payload_differ_in_the_signature_alone(template: Sealed, tmp_path: Path) -> None:
    seal_bundle(tmp_path / "again", tiny_payload(Format.TFLITE), template.key)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (template.backup, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert [str(name) for name in first if first[name] != second[name]] == ["bundle.sig"]


def test_the_private_key_touches_no_disk(template: Sealed, tmp_path: Path) -> None:
    seal_bundle(tmp_path / "bundle", tiny_payload(Format.TFLITE), template.key)
    secret = private_pem(template.key)
    assert all(secret not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=False)
    if done.returncode:
        pytest.skip("this machine does not let tests mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_leaves_the_old_bundle_and_nothing_half_written(small_disk: Path, template: Sealed) -> None:
    seal_bundle(small_disk / "bundle", {"old": b"x"}, template.key)
    with pytest.raises(OutOfSpace, match="No space"):
        seal_bundle(small_disk / "bundle", {"new": bytes(100_000)}, template.key)
    assert [path.name for path in small_disk.iterdir()] == ["bundle"]
    assert (small_disk / "bundle/payload/old").read_bytes() == b"x"


@pytest.mark.parametrize("free_bytes", [0, 4096, 8192, 16384])
def test_a_disk_that_fills_up_anywhere_while_sealing_is_out_of_space(
    small_disk: Path, template: Sealed, free_bytes: int
) -> None:
    (small_disk / "filler").write_bytes(bytes(64 * 1024 - free_bytes))
    with pytest.raises(OutOfSpace):
        seal_bundle(small_disk / "bundle", tiny_payload(Format.TFLITE), template.key)
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
