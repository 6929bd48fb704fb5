import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from sealed import EVERY_USE, Sealed

from pipeline.bundle.policy import KeyUse, load_policy, parse_policy
from pipeline.bundle.public_key import key_hint, public_pem, read_public_key
from pipeline.commands.build.keys import policy_text
from pipeline.core.errors import KeyFileError, TrustPolicyError


def pem_of(key) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@given(secret=st.integers(1, 2**250))
def test_public_keys_are_written_as_cryptography_writes_them_and_read_back(secret: int) -> None:
    key = ec.derive_private_key(secret, ec.SECP256R1()).public_key()
    assert public_pem(key) == pem_of(key)
    assert read_public_key(pem_of(key)).public_numbers() == key.public_numbers()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n",
        pem_of(ec.generate_private_key(ec.SECP384R1()).public_key()),
        pem_of(rsa.generate_private_key(65537, 2048).public_key()),
        pem_of(ec.generate_private_key(ec.SECP256R1()).public_key()).replace("BEGIN PUBLIC", "BEGIN PRIVATE"),
        pem_of(ec.generate_private_key(ec.SECP256R1()).public_key()).replace("==\n", "é=\n"),
        pem_of(ec.generate_private_key(ec.SECP256R1()).public_key())[:-40],
    ],
)
def test_any_other_key_is_refused(text: str) -> None:
    with pytest.raises(KeyFileError):
        read_public_key(text)


def test_a_point_off_the_curve_is_refused() -> None:
    pem = pem_of(ec.derive_private_key(5, ec.SECP256R1()).public_key())
    lines = pem.splitlines()
    broken = "\n".join([lines[0], lines[1], lines[2][:-8] + "AAAAAA==", lines[3]])
    with pytest.raises(KeyFileError):
        read_public_key(broken)


def test_paths_are_relative_to_the_policy_file(pair: Sealed) -> None:
    pair.trust.write_text(pair.trust.read_text() + "channels: channels\n")
    policy = load_policy(pair.trust)
    assert policy.state_dir == pair.folder.resolve() / "state"
    assert policy.channels == pair.folder.resolve() / "channels"
    assert list(policy.keys_for(KeyUse.CHANNEL)) == [key_hint(pair.key.public_key())]


def test_every_problem_is_told_at_once() -> None:
    text = b"schema_version: 2\nkeys: {main: {public_key: x, uses: [all]}}\nmodels: []\nstat_dir: x\n"
    with pytest.raises(TrustPolicyError) as caught:
        parse_policy(text, "trust.yaml")
    told = str(caught.value)
    for place in ("schema_version", "keys.main.uses", "models", "stat_dir: unknown", "state_dir: missing"):
        assert place in told


def test_a_policy_whose_keys_sign_no_bundles_is_wrong(pair: Sealed) -> None:
    text = policy_text(pair.key.public_key(), ("tiny",)).replace(EVERY_USE, "[channel]")
    with pytest.raises(TrustPolicyError, match="none may sign bundles"):
        parse_policy(text.encode(), "trust.yaml")


def test_a_bad_key_is_named_by_its_place(pair: Sealed) -> None:
    text = policy_text(pair.key.public_key(), ("tiny",)).replace("MFkw", "MFkx")
    with pytest.raises(TrustPolicyError, match=r"keys\.main\.public_key"):
        parse_policy(text.encode(), "trust.yaml")


@pytest.mark.parametrize(
    "text", [b"models: [a]\nmodels: [b]\n", b"keys: {a: 1, a: 2}", b"a: [", b"\xff\xff", b"!!python/x y"]
)
def test_doubled_keys_and_broken_yaml_are_refused(text: bytes) -> None:
    with pytest.raises(TrustPolicyError, match="is not YAML"):
        parse_policy(text, "trust.yaml")


@given(st.text(max_size=60))
def test_no_text_crashes_the_parser(text: str) -> None:
    with pytest.raises(TrustPolicyError):
        parse_policy(text.encode("utf-8", "surrogatepass"), "trust.yaml")


@pytest.mark.parametrize("name", ["no", "on", "null"])
def test_a_model_named_like_a_yaml_word_keeps_its_name(pair: Sealed, name: str) -> None:
    assert parse_policy(policy_text(pair.key.public_key(), (name,)).encode(), "x").models == (name,)
