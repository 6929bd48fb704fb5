"""EC P-256 public keys in their one text form.

Read here and not by cryptography's ``serialization``, whose import (0.03 s, SSH formats and all) is a tenth of what a
verification may take; a P-256 SubjectPublicKeyInfo is a fixed prefix and a point, so strictness comes for free.
"""

import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.core.errors import KeyFileError

# SEQUENCE { SEQUENCE { id-ecPublicKey, prime256v1 }, BIT STRING, uncompressed point } (RFC 5480)
_DER_PREFIX = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_BEGIN = "-----BEGIN PUBLIC KEY-----"
_END = "-----END PUBLIC KEY-----"
_COORDINATE_BYTES = 32
_LINE = 64


def read_public_key(text: str) -> ec.EllipticCurvePublicKey:
    """Read a PEM public key; raises KeyFileError unless it is EC P-256 in its usual form."""
    lines = text.split()
    body = "".join(lines[3:-3])
    if " ".join(lines[:3]) != _BEGIN or " ".join(lines[-3:]) != _END:
        raise KeyFileError("not a PEM public key; make one with `hotspare keys new`")
    try:
        der = base64.b64decode(body, validate=True)
        if not der.startswith(_DER_PREFIX):
            raise KeyFileError("not an EC P-256 public key; make one with `hotspare keys new`")
        point = b"\x04" + der.removeprefix(_DER_PREFIX)
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise KeyFileError("not a whole EC P-256 public key; copy it again") from error


def public_pem(key: ec.EllipticCurvePublicKey) -> str:
    """Return a P-256 public key as PEM (SubjectPublicKeyInfo), as OpenSSL writes it."""
    numbers = key.public_numbers()
    point = b"".join(value.to_bytes(_COORDINATE_BYTES, "big") for value in (numbers.x, numbers.y))
    body = base64.b64encode(_DER_PREFIX + point).decode("ascii")
    lines = [body[start : start + _LINE] for start in range(0, len(body), _LINE)]
    return "\n".join([_BEGIN, *lines, _END, ""])


def key_hint(key: ec.EllipticCurvePublicKey) -> str:
    """Return a key's name in signatures: the SHA-256 of its PEM, as model-signing has it."""
    return hashlib.sha256(public_pem(key).encode("ascii")).hexdigest()
