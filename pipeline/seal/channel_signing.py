"""Signing a channel: one DSSE envelope in canonical JSON."""

import base64

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.bundle.channel import CHANNEL_TYPE, Channel
from pipeline.bundle.dsse import pae
from pipeline.bundle.public_key import key_hint
from pipeline.core.canonical import canonical_json


def sign_channel(channel: Channel, private_key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    """Return the bytes of ``channel.json`` and ``channel.sig``.

    Write ``channel.json`` first: the rename of ``channel.sig``, which holds both, is what commits a promotion.
    """
    payload = channel.to_bytes()
    signature = private_key.sign(pae(CHANNEL_TYPE, payload), ec.ECDSA(SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": CHANNEL_TYPE,
        "signatures": [
            {"keyid": key_hint(private_key.public_key()), "sig": base64.b64encode(signature).decode("ascii")}
        ],
    }
    return payload, canonical_json(envelope)
