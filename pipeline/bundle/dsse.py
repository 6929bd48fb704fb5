"""DSSE envelopes, read strictly and verified with pinned ECDSA P-256 keys.

One verifier for both uses: ``bundle.sig`` (an envelope inside a Sigstore bundle, as OpenSSF Model Signing v1.0 writes
it) and ``channel.sig`` (a bare envelope). Source: https://github.com/secure-systems-lab/dsse/blob/v1.0.0/protocol.md
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from pipeline.bundle.strict_json import fit, parse_canonical
from pipeline.core.errors import Malformed, SignatureInvalid

IN_TOTO = "application/vnd.in-toto+json"
_TYPE_CHARS_TOLD = 80

PinnedKeys = Mapping[str, ec.EllipticCurvePublicKey]


@dataclass(frozen=True)
class Signed:
    """Bytes that a pinned key signed."""

    payload: bytes
    payload_type: str
    key_hint: str


@dataclass(frozen=True)
class _Signature:
    sig: str
    keyid: str


@dataclass(frozen=True)
class _Envelope:
    payload: str
    payloadType: str  # noqa: N815 - the name in the format
    signatures: tuple[_Signature, ...]


@dataclass(frozen=True)
class _PublicKey:
    hint: str


@dataclass(frozen=True)
class _Material:
    publicKey: _PublicKey  # noqa: N815 - the name in the format
    tlogEntries: tuple[str, ...]  # noqa: N815 - the name in the format


@dataclass(frozen=True)
class _SigstoreBundle:
    mediaType: Literal["application/vnd.dev.sigstore.bundle.v0.3+json"]  # noqa: N815 - the name in the format
    verificationMaterial: _Material  # noqa: N815 - the name in the format
    dsseEnvelope: _Envelope  # noqa: N815 - the name in the format


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def open_sigstore_bundle(data: bytes, keys: PinnedKeys, what: str) -> Signed:
    """Verify a Sigstore bundle that holds one in-toto envelope signed by one of ``keys`` (by hint).

    Raises Malformed when a single byte departs from the format, SignatureInvalid when no pinned key signed it.
    """
    outer = fit(_SigstoreBundle, parse_canonical(data, what), what)
    if outer.verificationMaterial.tlogEntries:
        raise Malformed(f"{what} carries transparency log entries, which key-signed bundles do not have.")
    if any(signature.keyid for signature in outer.dsseEnvelope.signatures):
        raise Malformed(f"{what} names a key id beside its hint; model-signing leaves it empty.")
    return _verify(outer.dsseEnvelope, outer.verificationMaterial.publicKey.hint, IN_TOTO, keys, what)


def open_envelope(data: bytes, payload_type: str, keys: PinnedKeys, what: str) -> Signed:
    """Verify a bare DSSE envelope of ``payload_type`` with one signature by one of ``keys`` (by key id).

    Raises Malformed when a single byte departs from the format, SignatureInvalid when no pinned key signed it.
    """
    envelope = fit(_Envelope, parse_canonical(data, what), what)
    hint = envelope.signatures[0].keyid if envelope.signatures else ""
    return _verify(envelope, hint, payload_type, keys, what)


def _verify(envelope: _Envelope, hint: str, payload_type: str, keys: PinnedKeys, what: str) -> Signed:
    if envelope.payloadType != payload_type:
        found = envelope.payloadType[:_TYPE_CHARS_TOLD]
        raise Malformed(f"{what} holds {found!r} where {payload_type!r} belongs.")
    if len(envelope.signatures) != 1:
        raise Malformed(f"{what} holds {len(envelope.signatures)} signatures where one belongs.")
    payload = _base64(envelope.payload, what)
    signature = _base64(envelope.signatures[0].sig, what)
    if hint not in keys:
        raise SignatureInvalid(
            f"{what} is signed by the key {hint[:16]}…, which the trust policy does not pin for this use."
        )
    _require_der(signature, what)
    try:
        keys[hint].verify(signature, pae(payload_type, payload), ec.ECDSA(SHA256()))
    except InvalidSignature as error:
        raise SignatureInvalid(f"{what}: the signature does not fit what it signs; do not use these files.") from error
    return Signed(payload, payload_type, hint)


def _base64(text: str, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Malformed(f"{what} holds text that is not base64.") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise Malformed(f"{what} holds base64 with stray bits in its padding.")
    return data


def _require_der(signature: bytes, what: str) -> None:
    try:
        strict = encode_dss_signature(*decode_dss_signature(signature)) == signature
    except ValueError:
        strict = False
    if not strict:
        raise Malformed(f"{what} holds a signature that is not strict DER.")
