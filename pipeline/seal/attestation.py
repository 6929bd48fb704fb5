"""Signing attestations: of a drill, of where a bundle comes from."""

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.attestation import DrillStatement, verify_attestation
from pipeline.bundle.dsse import IN_TOTO
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.provenance import ProvenanceStatement, verify_provenance
from pipeline.bundle.public_key import key_hint
from pipeline.core.errors import KeyFileError
from pipeline.seal.envelope import sign_envelope


def require_use(private_key: ec.EllipticCurvePrivateKey, policy: TrustPolicy, use: KeyUse) -> None:
    """Raise KeyFileError unless the policy lets this key sign for a use: asked before long work, not after it."""
    if key_hint(private_key.public_key()) not in policy.keys_for(use):
        raise KeyFileError(
            f"The trust policy does not let the signing key sign what the use `{use}` is for; "
            f"add `{use}` to the uses of its key there, or sign with a key that has it."
        )


def sign_attestation(statement: DrillStatement, private_key: ec.EllipticCurvePrivateKey, policy: TrustPolicy) -> bytes:
    """Return the bytes of ``attestation.json``; what our own verifier would refuse is never handed out.

    Raises KeyFileError when the policy does not pin the key for drills, else what ``verify_attestation`` raises.
    """
    require_use(private_key, policy, KeyUse.DRILL)
    signed = sign_envelope(statement.to_bytes(), IN_TOTO, private_key)
    verify_attestation(signed, policy)
    return signed


def sign_provenance(
    statement: ProvenanceStatement, private_key: ec.EllipticCurvePrivateKey, policy: TrustPolicy
) -> bytes:
    """Return the bytes of ``provenance.json``; what our own verifier would refuse is never handed out.

    Raises KeyFileError when the policy does not pin the key for provenance, else what ``verify_provenance`` raises.
    """
    require_use(private_key, policy, KeyUse.PROVENANCE)
    signed = sign_envelope(statement.to_bytes(), IN_TOTO, private_key)
    verify_provenance(signed, policy)
    return signed
