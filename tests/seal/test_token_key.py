"""A key in a PKCS#11 token: it signs what our verifier and the library's accept, and cannot be taken out."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from sealed import NOW, tiny_channel, tiny_payload

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import read_channel, verify_bundle
from pipeline.cli import main
from pipeline.commands.build.keys import policy_text
from pipeline.core.environment import SIGNING_KEY, SIGNING_PIN, for_children
from pipeline.core.errors import KeyFileError
from pipeline.core.names import Format
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import load_private_key
from pipeline.seal.second_opinion import require_second_opinion
from pipeline.seal.signing import seal_bundle

pkcs11 = pytest.importorskip("pkcs11") if "CI" not in os.environ else __import__("pkcs11")
from pipeline.seal.token_key import TokenAddress, TokenKey, parse_address  # noqa: E402

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
URI = f"pkcs11:token=release;object=signing?module-path={MODULE}"
PIN = {SIGNING_KEY: URI, SIGNING_PIN: "1234"}


@pytest.fixture(scope="session")
def token(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A soft token that holds two keys: one P-256, one P-384."""
    if not MODULE.exists() or shutil.which("softhsm2-util") is None:
        assert "CI" not in os.environ, "CI needs the package softhsm2"
        pytest.skip("needs the package softhsm2")
    place = tmp_path_factory.mktemp("softhsm")
    (place / "tokens").mkdir()
    (place / "softhsm2.conf").write_text(f"directories.tokendir = {place}/tokens\nobjectstore.backend = file\n")
    os.environ["SOFTHSM2_CONF"] = str(place / "softhsm2.conf")
    command = ["softhsm2-util", "--init-token", "--free", "--label", "release", "--pin", "1234", "--so-pin", "4321"]
    subprocess.run(command, check=True, capture_output=True)
    with pkcs11.lib(str(MODULE)).get_token(token_label="release").open(user_pin="1234", rw=True) as session:
        for label, curve, number in (("signing", "secp256r1", 7), ("large", "secp384r1", 8)):
            parameters = pkcs11.util.ec.encode_named_curve_parameters(curve)
            domain = session.create_domain_parameters(
                pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: parameters}, local=True
            )
            domain.generate_keypair(store=True, label=label, id=bytes([number]))


@pytest.fixture
def key(token: None, tmp_path: Path) -> ec.EllipticCurvePrivateKey:
    return load_private_key(tmp_path, PIN)


@pytest.mark.long
def test_a_bundle_and_a_channel_that_the_token_signed_are_accepted(key, tmp_path: Path) -> None:
    assert isinstance(key, TokenKey)
    bundle = tmp_path / "bundle"
    seal_bundle(bundle, tiny_payload(Format.TFLITE), key)
    (tmp_path / "trust.yaml").write_text(policy_text(key.public_key(), ("tiny",)))
    trust = load_policy(tmp_path / "trust.yaml")
    assert verify_bundle(bundle, trust, NOW).files == tiny_payload(Format.TFLITE)
    assert read_channel(sign_channel(tiny_channel(), key)[1], trust)[0] == tiny_channel()


@pytest.mark.long
def test_the_librarys_own_verifier_accepts_it_too(key, tmp_path: Path) -> None:
    seal_bundle(tmp_path / "bundle", tiny_payload(Format.TFLITE), key)
    require_second_opinion(tmp_path / "bundle", key.public_key())


@pytest.mark.long
def test_every_signature_verifies(key) -> None:
    for number in range(40):  # r or s is short in one of 128
        data = b"%d" % number
        key.public_key().verify(key.sign(data, ec.ECDSA(SHA256())), data, ec.ECDSA(SHA256()))


@pytest.mark.long
def test_a_key_is_found_by_its_id_too(key, tmp_path: Path) -> None:
    by_id = load_private_key(tmp_path, {**PIN, SIGNING_KEY: URI.replace("object=signing", "id=%07")})
    assert by_id.public_key() == key.public_key()


@pytest.mark.long
def test_the_secret_stays_where_it_is(key) -> None:
    with pytest.raises(TypeError):
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(TypeError):
        key.private_numbers()
    with pytest.raises(TypeError):
        key.exchange(ec.ECDH(), key.public_key())
    with pytest.raises(TypeError):
        key.sign(b"", ec.ECDSA(SHA384()))
    assert copy.deepcopy(key) is key


@pytest.mark.long
def test_keys_new_takes_the_public_half_and_writes_no_private_one(
    token: None, tmp_path: Path, monkeypatch, capsys
) -> None:
    for name, value in PIN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes/models").mkdir(parents=True)
    (tmp_path / "recipes/models/tiny.yaml").write_text("")
    assert main(["keys", "new", "keys", "--trust", "trust.yaml", "--if-missing", "--json"]) == 0
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["signing.pub"]
    assert json.loads(capsys.readouterr().out)["models"] == ["tiny"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({SIGNING_KEY: URI}, "give the token's PIN"),
        ({**PIN, SIGNING_KEY: URI.replace("token=release", "token=other")}, "NoSuchToken"),
        ({**PIN, SIGNING_KEY: URI.replace("object=signing", "object=other")}, "NoSuchKey"),
        ({**PIN, SIGNING_KEY: URI.replace("object=signing", "object=large")}, "not an EC P-256"),
        ({**PIN, SIGNING_KEY: URI.replace("libsofthsm2", "libnone")}, "cannot be used"),
    ],
)
def test_what_does_not_open_is_one_sentence_without_the_pin(token: None, tmp_path: Path, environ, why: str) -> None:
    with pytest.raises(KeyFileError, match=why) as told:
        load_private_key(tmp_path, environ)
    assert environ.get(SIGNING_PIN, "9999") not in str(told.value)


@pytest.mark.long
def test_a_wrong_pin_is_one_sentence_without_it(token: None, tmp_path: Path) -> None:
    """In a process of its own, for one process logs in once."""
    command = [sys.executable, "-m", "pipeline.cli", "keys", "new", str(tmp_path), "--if-missing"]
    environ = {**os.environ, **PIN, SIGNING_PIN: "987654"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == KeyFileError.exit_code
    assert "PinIncorrect" in done.stderr
    assert "987654" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_pin_is_not_handed_to_children() -> None:
    assert for_children(PIN) == {"PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("pkcs11:", "token"),
        ("pkcs11:token=a;object=b", "module-path"),
        ("pkcs11:object=b?module-path=/m.so", "token"),
        ("pkcs11:token=a?module-path=/m.so", "names no key"),
        ("pkcs11:token=a;object=b?module-path=m.so", "absolute"),
        ("pkcs11:token=a;token=b;object=c?module-path=/m.so", "twice"),
        ("pkcs11:token=a;object=b;slot-id=1?module-path=/m.so", "slot-id"),
        ("pkcs11:token=a;object=b;type=cert?module-path=/m.so", "private"),
        ("pkcs11:token=a;object=b?module-path=/m.so&pin-value=1234", "pin-value"),
        ("pkcs11:token=a%zz;object=b?module-path=/m.so", "odd characters"),
        ("pkcs11:token=%ff;object=b?module-path=/m.so", "UTF-8"),
        ("pkcs11:token=;object=b?module-path=/m.so", "empty"),
        ("pkcs11:token=a;object=b%00?module-path=/m.so", "zero byte"),
    ],
)
def test_an_unclear_address_is_refused(text: str, why: str) -> None:
    with pytest.raises(KeyFileError, match=why) as told:
        parse_address(text)
    assert "1234" not in str(told.value)


def test_percent_signs_spell_any_character() -> None:
    found = parse_address("pkcs11:token=my%20token;object=a%3Bb;id=%00%ff;type=private?module-path=/m%2Eso")
    assert found == TokenAddress(Path("/m.so"), "my token", "a;b", b"\x00\xff")


@given(st.text(max_size=80))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = parse_address(f"pkcs11:{text}")
    except KeyFileError:
        return
    assert found.module.is_absolute()
    assert found.token
