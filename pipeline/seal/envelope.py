"""Signing: one DSSE envelope with one signature, in canonical JSON."""

import base64

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.bundle.dsse import pae
from pipeline.bundle.public_key import key_hint
from pipeline.core.canonical import canonical_json


def sign_envelope(payload: bytes, payload_type: str, private_key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the envelope that :func:`pipeline.bundle.dsse.open_envelope` reads."""
    signature = private_key.sign(pae(payload_type, payload), ec.ECDSA(SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": payload_type,
        "signatures": [
            {"keyid": key_hint(private_key.public_key()), "sig": base64.b64encode(signature).decode("ascii")}
        ],
    }
    return canonical_json(envelope)
