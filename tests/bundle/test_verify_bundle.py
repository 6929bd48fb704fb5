import copy
import json
import os
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealed import EVERY_USE, NOW, Sealed, reference, tiny_payload

from pipeline.bundle.dsse import open_sigstore_bundle
from pipeline.bundle.manifest import Node
from pipeline.bundle.policy import KeyUse, load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.commands.build.keys import policy_text
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import FileAccess, Malformed, NotAccepted, SignatureInvalid, Tampered, Untrusted
from pipeline.core.names import Format, Role


def test_a_sealed_bundle_is_verified_and_hands_out_the_hashed_bytes(verified) -> None:
    bundle = verified()
    assert bundle.files == tiny_payload(Format.TFLITE)
    assert bundle.bundle_id == reference(Format.TFLITE).bundle_id
    assert bundle.size == reference(Format.TFLITE).size
    assert (bundle.model, bundle.candidate, bundle.role) == ("tiny", "dense.f32", Role.BACKUP)
    assert bundle.unchecked == ()


def test_without_a_channel_it_says_what_was_not_checked(verified) -> None:
    bundle = verified(with_channel=False)
    assert bundle.role is None
    assert "floor" in bundle.unchecked[0]


def test_an_attestations_folder_is_left_alone(pair: Sealed, verified) -> None:
    (pair.backup / "attestations").mkdir()
    (pair.backup / "attestations" / "later.json").write_text("{}")
    assert verified().model == "tiny"


def flip(path: Path, position: int, mask: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.unlink()  # written over, a file waits for the disk
    path.write_bytes(data)


SLOW_MASKS = [pytest.param(mask, marks=pytest.mark.slow) for mask in (0x02, 0x04, 0x08, 0x10, 0x20, 0x40)]


@pytest.mark.parametrize("mask", [0x01, 0x80, *SLOW_MASKS])
def test_no_byte_of_the_signature_file_is_free(template: Sealed, mask: int) -> None:
    keys = load_policy(template.trust).keys_for(KeyUse.BUNDLE)
    whole = (template.backup / "bundle.sig").read_bytes()
    open_sigstore_bundle(whole, keys, "bundle.sig")
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= mask
        with pytest.raises((Malformed, SignatureInvalid)):
            open_sigstore_bundle(bytes(flipped), keys, "bundle.sig")


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_of_any_file_is_free(pair: Sealed, policy, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(all_files(pair.backup)), "file")
    whole = path.read_bytes()
    flip(path, data.draw(st.integers(0, len(whole) - 1), "position"), data.draw(st.integers(1, 255), "mask"))
    try:
        expected = (Malformed, SignatureInvalid) if path.name == "bundle.sig" else Tampered
        with pytest.raises(expected):
            verify_bundle(pair.backup, policy, NOW)
    finally:
        path.unlink()
        path.write_bytes(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.one_of(st.binary(max_size=300), st.text(alphabet='[]{}":,0', max_size=300).map(str.encode)))
def test_a_signature_file_of_anything_else_is_refused_and_crashes_nothing(pair: Sealed, policy, noise: bytes) -> None:
    (pair.backup / "bundle.sig").write_bytes(noise)
    with pytest.raises(Untrusted):
        verify_bundle(pair.backup, policy, NOW)


def test_a_deeply_nested_signature_file_is_refused(pair: Sealed, policy) -> None:
    (pair.backup / "bundle.sig").write_bytes(b"[" * 500_000)
    with pytest.raises(Malformed):
        verify_bundle(pair.backup, policy, NOW)


@pytest.mark.parametrize("levels", [33, 500, *range(940, 1000)])
def test_nesting_just_below_what_python_can_bear_is_refused_too(pair: Sealed, policy, levels: int) -> None:
    (pair.backup / "bundle.sig").write_bytes(b'{"dsseEnvelope":' + b"[" * levels + b"]" * levels + b"}")
    with pytest.raises(Malformed):
        verify_bundle(pair.backup, policy, NOW)


def test_a_flood_of_unknown_keys_is_told_in_short(pair: Sealed, policy) -> None:
    (pair.backup / "bundle.sig").write_bytes(canonical_json({f"key{number:05}": 0 for number in range(50_000)}))
    with pytest.raises(Malformed, match="more") as caught:
        verify_bundle(pair.backup, policy, NOW)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("odd", [{"payloadType": "\x01" * 100_000}, {"\x01" * 100_000: 0}], ids=["type", "key"])
def test_a_long_text_in_what_nobody_signed_is_told_in_short(pair: Sealed, policy, odd: dict[str, object]) -> None:
    outer = json.loads((pair.backup / "bundle.sig").read_bytes())
    outer["dsseEnvelope"] |= odd
    (pair.backup / "bundle.sig").write_bytes(canonical_json(outer))
    with pytest.raises(Malformed) as caught:
        verify_bundle(pair.backup, policy, NOW)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("with_channel", [True, False])
def test_a_payload_file_blown_up_with_nothing_is_refused_before_it_fills_the_memory(
    pair: Sealed, verified, with_channel: bool
) -> None:
    os.truncate(pair.backup / "payload/LICENSE", 10**13)
    with pytest.raises(Tampered, match="the payload has 1000"):
        verified(with_channel)


def _name_in_payload(bundle: Path) -> None:
    (bundle / "payload" / _STEERING).write_bytes(b"x")


def _name_beside_payload(bundle: Path) -> None:
    (bundle / _STEERING).write_bytes(b"x")


def _name_of_a_link(bundle: Path) -> None:
    (bundle / "payload" / _STEERING).symlink_to("LICENSE")


def _name_of_an_empty_folder(bundle: Path) -> None:
    (bundle / "payload" / _STEERING).mkdir()


def _key_in_signature(bundle: Path) -> None:
    (bundle / "bundle.sig").write_bytes(canonical_json({_STEERING + "\u202e\x9b31m": 1}))


_STEERING = "\x1b[2J\nverified    tiny\rdense"


@pytest.mark.parametrize(
    "attack", [_name_in_payload, _name_beside_payload, _name_of_a_link, _name_of_an_empty_folder, _key_in_signature]
)
def test_names_that_steer_a_terminal_or_forge_a_line_are_spelled_out(pair: Sealed, policy, attack) -> None:
    attack(pair.backup)
    with pytest.raises((Tampered, Malformed)) as caught:
        verify_bundle(pair.backup, policy, NOW)
    assert str(caught.value).isprintable()


def test_a_huge_signature_file_is_refused_before_it_is_parsed(pair: Sealed, policy) -> None:
    with (pair.backup / "bundle.sig").open("wb") as stream:
        stream.truncate(10**12)
    with pytest.raises(Malformed, match="larger"):
        verify_bundle(pair.backup, policy, NOW)


def _append(bundle: Path) -> None:
    with (bundle / "payload/model/model.tflite").open("ab") as stream:
        stream.write(b"x")


def _cut(bundle: Path) -> None:
    path = bundle / "payload/model/model.tflite"
    path.write_bytes(path.read_bytes()[:-1])


def _swap_two_files(bundle: Path) -> None:
    one, other = bundle / "payload/io.json", bundle / "payload/bundle.json"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def _link(bundle: Path) -> None:
    path = bundle / "payload/LICENSE"
    path.rename(bundle.parent / "elsewhere")
    path.symlink_to(bundle.parent / "elsewhere")


def _link_folder(bundle: Path) -> None:
    (bundle / "payload/model").rename(bundle.parent / "model")
    (bundle / "payload/model").symlink_to(bundle.parent / "model")


def _link_payload(bundle: Path) -> None:
    (bundle / "payload").rename(bundle.parent / "payload")
    (bundle / "payload").symlink_to(bundle.parent / "payload")


def _link_signature(bundle: Path) -> None:
    (bundle / "bundle.sig").rename(bundle.parent / "bundle.sig")
    (bundle / "bundle.sig").symlink_to(bundle.parent / "bundle.sig")


def _pipe(bundle: Path) -> None:
    (bundle / "payload/LICENSE").unlink()
    os.mkfifo(bundle / "payload/LICENSE")


def _pipe_for_signature(bundle: Path) -> None:
    (bundle / "bundle.sig").unlink()
    os.mkfifo(bundle / "bundle.sig")


ATTACKS = {
    "a file longer by a byte": _append,
    "a file shorter by a byte": _cut,
    "two files swapped": _swap_two_files,
    "a missing file": lambda bundle: (bundle / "payload/LICENSE").unlink(),
    "a renamed file": lambda bundle: (bundle / "payload/LICENSE").rename(bundle / "payload/LICENCE"),
    "an extra file": lambda bundle: (bundle / "payload/model/more.bin").write_bytes(b"x"),
    "an extra hidden file": lambda bundle: (bundle / "payload/.gitignore").write_bytes(b"*"),
    "an extra .git folder": lambda bundle: (
        (bundle / "payload/.git").mkdir(),
        (bundle / "payload/.git/x").write_bytes(b"x"),
    ),
    "an empty folder": lambda bundle: (bundle / "payload/empty").mkdir(),
    "a file beside the payload": lambda bundle: (bundle / "run.sh").write_text("x"),
    "a link for a file": _link,
    "a link for a folder": _link_folder,
    "a link for the payload": _link_payload,
    "a link for the signature": _link_signature,
    "a pipe for a file": _pipe,
    "a pipe for the signature": _pipe_for_signature,
    "no payload": lambda bundle: (bundle / "payload").rename(bundle.parent / "gone"),
    "no signature": lambda bundle: (bundle / "bundle.sig").unlink(),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_tree_is_tampered(pair: Sealed, policy, attack: str) -> None:
    ATTACKS[attack](pair.backup)
    with pytest.raises(Tampered) as caught:
        verify_bundle(pair.backup, policy, NOW)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_place_of_a_signature_is_refused_and_costs_no_descriptor(pair: Sealed, policy) -> None:
    """Who follows a depot or a disk looks again for weeks: each look kept a descriptor open, until none was left."""
    (pair.primary / "bundle.sig").unlink()
    (pair.primary / "bundle.sig").mkdir()
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(Tampered, match=r"bundle\.sig is not a regular file"):
        verify_bundle(pair.primary, policy, NOW)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_folder_that_is_not_there_is_no_forgery(pair: Sealed, policy) -> None:
    with pytest.raises(FileAccess):
        verify_bundle(pair.folder / "nowhere", policy, NOW)


def test_the_signature_of_another_bundle_does_not_cover_this_one(pair: Sealed, policy) -> None:
    (pair.backup / "bundle.sig").write_bytes((pair.primary / "bundle.sig").read_bytes())
    with pytest.raises(Tampered):
        verify_bundle(pair.backup, policy, NOW)


def test_a_key_that_is_not_pinned_is_refused(pair: Sealed) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    pair.trust.write_text(policy_text(other, ("tiny",)))
    with pytest.raises(SignatureInvalid, match="does not pin"):
        verify_bundle(pair.backup, load_policy(pair.trust), NOW)


def test_a_key_pinned_for_channels_alone_does_not_sign_bundles(pair: Sealed) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    both = policy_text(pair.key.public_key(), ("tiny",)).replace(EVERY_USE, "[channel]")
    second = policy_text(other, ("tiny",)).split("keys:\n")[1].split("models:")[0].replace("main", "second")
    pair.trust.write_text(both.replace("models:", f"{second}models:"))
    with pytest.raises(SignatureInvalid):
        verify_bundle(pair.backup, load_policy(pair.trust), NOW)


def test_a_model_that_the_policy_does_not_name_is_refused(pair: Sealed) -> None:
    pair.trust.write_text(policy_text(pair.key.public_key(), ("other",)))
    with pytest.raises(NotAccepted, match="of tiny"):
        verify_bundle(pair.backup, load_policy(pair.trust), NOW)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (Node("riscv64", 4000, {"ai-edge-litert": "2.3.0"}), "riscv64"),
        (Node("x86_64", 32, {"ai-edge-litert": "2.3.0"}), "memory"),
        (Node("x86_64", 4000, {"ai-edge-litert": "1.4.0"}), "ai-edge-litert 1.4.0"),
        (Node("x86_64", 4000, {"ai-edge-litert": "3.0.0"}), "ai-edge-litert 3.0.0"),
        (Node("x86_64", 4000, {"tflite-runtime": "2.5.0"}), "tflite-runtime 2.5.0"),
    ],
)
def test_a_node_that_cannot_run_it_refuses_it(pair: Sealed, policy, node: Node, said: str) -> None:
    with pytest.raises(NotAccepted, match=said):
        verify_bundle(pair.backup, policy, NOW, node=node)


@pytest.mark.parametrize("packages", [{"ai-edge-litert": "2.9"}, {"tflite-runtime": "2.14.0"}])
def test_either_tflite_engine_is_accepted(pair: Sealed, policy, packages: dict[str, str]) -> None:
    assert verify_bundle(pair.backup, policy, NOW, node=Node("aarch64", 4000, packages)).unchecked[1:] == ()


def test_a_machine_without_any_engine_may_verify_and_says_what_is_open(pair: Sealed, policy) -> None:
    bundle = verify_bundle(pair.backup, policy, NOW, node=Node("x86_64", 4000, {}))
    assert "no engine" in bundle.unchecked[-1]


def test_a_verified_bundle_does_not_cross_a_process(verified) -> None:
    with pytest.raises(TypeError, match="verify again"):
        pickle.dumps(verified())
    with pytest.raises(TypeError):
        copy.copy(verified())
