"""Signing keys: EC P-256 in PEM, the private one readable by its owner alone, or in a token that nobody can read."""

import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from pipeline.bundle.public_key import public_pem, read_public_key
from pipeline.core import layout
from pipeline.core.environment import SIGNING_KEY
from pipeline.core.errors import KeyFileError, MissingExtra
from pipeline.core.files import locked, read_bytes, write_atomic

PRIVATE_KEY = "signing.pem"
PUBLIC_KEY = "signing.pub"
_OTHERS = 0o077


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS#8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def new_key(folder: Path) -> ec.EllipticCurvePublicKey:
    """Write a fresh ``signing.pem`` (0600) and ``signing.pub`` and return the public key.

    Raises KeyFileError when there is a key already: overwriting it would orphan what it signed.
    """
    with locked(folder / ".lock"):
        for path in (folder / PRIVATE_KEY, folder / PUBLIC_KEY):
            if path.exists():
                raise KeyFileError(f"{path} exists and is not overwritten; use it, or choose another folder.")
        key = ec.generate_private_key(ec.SECP256R1())
        write_atomic(folder / PRIVATE_KEY, private_pem(key), mode=0o600)
        write_public(folder, key.public_key())
    return key.public_key()


def write_public(folder: Path, key: ec.EllipticCurvePublicKey) -> None:
    """Write ``signing.pub``."""
    write_atomic(folder / PUBLIC_KEY, public_pem(key).encode("ascii"))


def load_private_key(folder: Path = layout.KEYS, environ: Mapping[str, str] = os.environ) -> ec.EllipticCurvePrivateKey:
    """Return the signing key: what ``HOTSPARE_SIGNING_KEY`` holds or names, else ``signing.pem`` in ``folder``.

    The variable holds PEM text, or a PKCS#11 URI; a key in a token only signs. Raises KeyFileError when it is missing,
    not EC P-256, readable by others, or not of the ``signing.pub`` beside it.
    """
    text = environ.get(SIGNING_KEY)
    key = _read_file(folder / PRIVATE_KEY) if text is None else _from_environment(text, environ)
    public = folder / PUBLIC_KEY
    if public.exists() and public_pem(load_public_key(folder)) != public_pem(key.public_key()):
        raise KeyFileError(f"The private key does not belong to {public}; put the matching pair in place.")
    return key


def load_public_key(folder: Path = layout.KEYS) -> ec.EllipticCurvePublicKey:
    """Return ``signing.pub``; raises KeyFileError when it is missing or not EC P-256."""
    path = folder / PUBLIC_KEY
    text = read_bytes(path, KeyFileError, "make a key with `hotspare keys new`").decode("utf-8", "replace")
    try:
        return read_public_key(text)
    except KeyFileError as error:
        raise KeyFileError(f"{path}: {error}.") from error


def _from_environment(text: str, environ: Mapping[str, str]) -> ec.EllipticCurvePrivateKey:
    if not text.startswith("pkcs11:"):
        return _parse(text.encode("utf-8"), SIGNING_KEY)
    try:
        from pipeline.seal.token_key import open_token_key  # its library belongs to an extra that few need
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{SIGNING_KEY} names a key in a token, which needs a package: pip install 'hotspare[pkcs11]'."
        ) from error
    return open_token_key(text, environ)


def _read_file(path: Path) -> ec.EllipticCurvePrivateKey:
    advice = f"make one with `hotspare keys new {path.parent}` or set {SIGNING_KEY}"
    data = read_bytes(path, KeyFileError, advice)
    if path.stat().st_mode & _OTHERS:
        raise KeyFileError(f"{path} can be read by others; run `chmod 600 {path}`, and renew the key if it was shared.")
    return _parse(data, str(path))


def _parse(pem: bytes, place: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyFileError(
            f"{place} is not an unencrypted PEM private key; make one with `hotspare keys new`."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(f"{place} is not an EC P-256 key; make one with `hotspare keys new`.")
    return key
