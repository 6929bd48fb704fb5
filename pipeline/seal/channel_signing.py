"""Signing a channel."""

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.channel import CHANNEL_TYPE, Channel
from pipeline.seal.envelope import sign_envelope


def sign_channel(channel: Channel, private_key: ec.EllipticCurvePrivateKey) -> tuple[bytes, bytes]:
    """Return the bytes of ``channel.json`` and ``channel.sig``.

    Write ``channel.json`` first: the rename of ``channel.sig``, which holds both, is what commits a promotion.
    """
    payload = channel.to_bytes()
    return payload, sign_envelope(payload, CHANNEL_TYPE, private_key)
