import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from pipeline.bundle.public_key import public_pem
from pipeline.core.environment import SIGNING_KEY
from pipeline.core.errors import KeyFileError
from pipeline.seal.keys import load_private_key, load_public_key, new_key, private_pem


def test_a_new_key_is_private_and_matches_its_public_half(tmp_path: Path) -> None:
    public = new_key(tmp_path / "keys")
    assert stat.S_IMODE((tmp_path / "keys/signing.pem").stat().st_mode) == 0o600
    assert public_pem(load_private_key(tmp_path / "keys", {}).public_key()) == public_pem(public)
    assert public_pem(load_public_key(tmp_path / "keys")) == public_pem(public)


def test_a_key_is_not_written_into_a_file_that_others_laid_there(tmp_path: Path) -> None:
    for name in ("signing.pem", "signing.pub"):
        (tmp_path / f"elsewhere-{name}").write_text("theirs")
        (tmp_path / f".aside-{name}").symlink_to(tmp_path / f"elsewhere-{name}")
    (tmp_path / ".aside-signing.pem").unlink()
    (tmp_path / ".aside-signing.pem").write_text("open to all")
    (tmp_path / ".aside-signing.pem").chmod(0o666)
    new_key(tmp_path)
    assert stat.S_IMODE((tmp_path / "signing.pem").stat().st_mode) == 0o600
    assert (tmp_path / "elsewhere-signing.pub").read_text() == "theirs"
    assert not (tmp_path / "signing.pub").is_symlink()


def test_of_those_who_make_a_key_at_once_one_does_and_its_halves_match(tmp_path: Path) -> None:
    def make(_: int) -> bool:
        try:
            new_key(tmp_path)
        except KeyFileError:
            return False
        return True

    with ThreadPoolExecutor(8) as together:
        assert sum(together.map(make, range(8))) == 1
    load_private_key(tmp_path, {})


@pytest.mark.parametrize("kept", ["signing.pem", "signing.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, kept: str) -> None:
    (tmp_path / kept).write_text("precious")
    with pytest.raises(KeyFileError, match="not overwritten"):
        new_key(tmp_path)
    assert (tmp_path / kept).read_text() == "precious"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_private_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    new_key(tmp_path)
    (tmp_path / "signing.pem").chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_private_key(tmp_path, {})


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="hotspare keys new"):
        load_private_key(tmp_path, {})


def test_a_private_key_of_another_public_key_is_refused(tmp_path: Path) -> None:
    new_key(tmp_path)
    (tmp_path / "signing.pem").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(KeyFileError, match="does not belong"):
        load_private_key(tmp_path, {})


def test_the_environment_wins_and_must_match_too(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    environment = {SIGNING_KEY: private_pem(key).decode()}
    assert private_pem(load_private_key(tmp_path, environment)) == private_pem(key)
    new_key(tmp_path)
    with pytest.raises(KeyFileError, match="does not belong"):
        load_private_key(tmp_path, environment)


def pkcs8(key, encryption=None) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a key",
        pkcs8(ec.generate_private_key(ec.SECP384R1())),
        pkcs8(rsa.generate_private_key(65537, 2048)),
        pkcs8(ec.generate_private_key(ec.SECP256R1()), BestAvailableEncryption(b"secret")),
    ],
)
def test_other_private_keys_are_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        load_private_key(tmp_path, {SIGNING_KEY: text})
    assert SIGNING_KEY in str(caught.value)
    assert text == "" or text not in str(caught.value)
