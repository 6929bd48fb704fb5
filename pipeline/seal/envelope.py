"""Signing: one DSSE envelope with one signature, in canonical JSON."""

import base64

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.bundle.dsse import pae
from pipeline.bundle.public_key import key_hint
from pipeline.core.canonical import canonical_json


def sign_envelope(payload: bytes, payload_type: str, private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the envelope that :func:`pipeline.bundle.dsse.open_envelope` reads."""
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": key_hint(private_key.public_key()), "sig": signature_of(payload, payload_type, private_key)}
        ],
    }
    return canonical_json(envelope)


def signature_of(payload: bytes, payload_type: str, private_key: ec.EllipticCurvePrivateKey) -> str:
    """Return the base64 of DSSE's signature over a payload."""
    return base64.b64encode(private_key.sign(pae(payload_type, payload), ec.ECDSA(SHA256()))).decode("ascii")
