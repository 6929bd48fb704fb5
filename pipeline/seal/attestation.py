"""Signing a drill attestation."""

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.attestation import DrillStatement, verify_attestation
from pipeline.bundle.dsse import IN_TOTO
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.public_key import key_hint
from pipeline.core.errors import KeyFileError
from pipeline.seal.envelope import sign_envelope


def require_drill_key(private_key: ec.EllipticCurvePrivateKey, policy: TrustPolicy) -> None:
    """Raise KeyFileError unless the policy lets this key sign drills: asked before a drill, not after it."""
    if key_hint(private_key.public_key()) not in policy.keys_for(KeyUse.DRILL):
        raise KeyFileError(
            f"The trust policy does not let the signing key attest drills; add `{KeyUse.DRILL}` to the uses of its "
            "key there, or sign with a key that has it."
        )


def sign_attestation(statement: DrillStatement, private_key: ec.EllipticCurvePrivateKey, policy: TrustPolicy) -> bytes:
    """Return the bytes of ``attestation.json``; what our own verifier would refuse is never handed out.

    Raises KeyFileError when the policy does not pin the key for drills, else what ``verify_attestation`` raises.
    """
    require_drill_key(private_key, policy)
    signed = sign_envelope(statement.to_bytes(), IN_TOTO, private_key)
    verify_attestation(signed, policy)
    return signed
