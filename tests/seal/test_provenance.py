"""Provenance: what is signed is read back, and every forgery is refused."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bundle.attestation import verify_attestation
from pipeline.bundle.dsse import IN_TOTO
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.provenance import (
    BUILD_TYPE,
    GIT,
    LOCK,
    PROVENANCE_TYPE,
    Asked,
    BuildDefinition,
    Builder,
    Chosen,
    Material,
    Metadata,
    ProvenancePredicate,
    ProvenanceStatement,
    RunDetails,
    verify_provenance,
)
from pipeline.bundle.statement import Digest, Subject
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import KeyFileError, Malformed, NotAccepted, SignatureInvalid, Untrusted
from pipeline.core.names import Role
from pipeline.seal.attestation import sign_provenance
from pipeline.seal.envelope import sign_envelope

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
MATERIALS = (
    Material(GIT, {"gitCommit": "ab" * 20}, "git+https://example.org/team/models@refs/tags/v1"),
    Material(LOCK, {"sha256": "cd" * 32}),
)
STATEMENT = ProvenanceStatement(
    (Subject("tiny-backup", Digest("22" * 32)),),
    PROVENANCE_TYPE,
    ProvenancePredicate(
        BuildDefinition(BUILD_TYPE, Asked("tiny", Role.BACKUP), Chosen("p50.w8", "ef" * 32), MATERIALS),
        RunDetails(
            Builder("urn:hotspare:builder:local", {"hotspare": "0"}),
            Metadata("2026-06-01T12:00:00Z", "2026-06-01T12:01:00Z"),
        ),
    ),
)


def policy(*keys: tuple[ec.EllipticCurvePrivateKey, tuple[KeyUse, ...]], models: tuple[str, ...] = ("tiny",)):
    pinned = tuple((key.public_key(), uses) for key, uses in keys)
    return TrustPolicy(pinned, models, Path("state"), None, "stable")


TRUST = policy((KEY, tuple(KeyUse)))
GOOD = sign_provenance(STATEMENT, KEY, TRUST)  # once: signatures differ in length


def signed(value: object) -> bytes:
    """Sign anything at all with the pinned key, as a careless signer would."""
    return sign_envelope(value if isinstance(value, bytes) else canonical_json(value), IN_TOTO, KEY)


def content() -> dict:
    return json.loads(STATEMENT.to_bytes())


def test_what_was_signed_is_read_back() -> None:
    read = verify_provenance(GOOD, TRUST)
    assert read == STATEMENT
    assert read.bundle_id == "22" * 32
    assert read.materials == {GIT: "ab" * 20, LOCK: "cd" * 32}


def test_the_payload_has_the_fields_that_slsa_names() -> None:
    statement = json.loads(base64.b64decode(json.loads(GOOD)["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, run = statement["predicate"]["buildDefinition"], statement["predicate"]["runDetails"]
    assert definition["buildType"] == BUILD_TYPE
    assert definition["externalParameters"] == {"model": "tiny", "role": "backup"}
    assert definition["resolvedDependencies"][0]["digest"] == {"gitCommit": "ab" * 20}
    assert run["builder"]["id"] == "urn:hotspare:builder:local"
    assert set(run["metadata"]) == {"startedOn", "finishedOn"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(GOOD) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != GOOD[place]))
    with pytest.raises(Untrusted):
        verify_provenance(GOOD[:place] + bytes([byte]) + GOOD[place + 1 :], TRUST)


def test_a_key_that_is_not_pinned_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        verify_provenance(sign_envelope(STATEMENT.to_bytes(), IN_TOTO, OTHER), TRUST)


@pytest.mark.parametrize("use", [use for use in KeyUse if use is not KeyUse.PROVENANCE])
def test_a_key_pinned_for_another_use_is_refused_by_reader_and_signer(use: KeyUse) -> None:
    narrow = policy((KEY, (use,)))
    with pytest.raises(SignatureInvalid):
        verify_provenance(GOOD, narrow)
    with pytest.raises(KeyFileError, match="add `provenance` to the uses"):
        sign_provenance(STATEMENT, KEY, narrow)


def test_provenance_of_a_model_that_the_policy_does_not_name_is_refused() -> None:
    with pytest.raises(NotAccepted, match="tiny"):
        verify_provenance(GOOD, policy((KEY, tuple(KeyUse)), models=("other",)))


def test_provenance_is_no_drill() -> None:
    with pytest.raises(Malformed):
        verify_attestation(GOOD, TRUST)


def test_another_byte_form_of_the_same_statement_is_refused() -> None:
    with pytest.raises(Malformed, match="one byte form"):
        verify_provenance(signed(json.dumps(content(), indent=1).encode()), TRUST)


def within(*path: str | int, **changes: object) -> dict:
    """Return the statement with keys of one of its parts set."""
    value = content()
    part = value
    for step in path:
        part = part[step]
    part.update(changes)
    return value


PREDICATE = ("predicate",)
DEFINITION = ("predicate", "buildDefinition")
RUN = ("predicate", "runDetails")


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (within(_type="https://in-toto.io/Statement/v0.1"), "not an in-toto v1"),
        (within(predicateType="https://slsa.dev/provenance/v0.2"), "predicateType"),
        (within(subject=[]), "expected 1"),
        (within(subject=content()["subject"] * 2), "expected 1"),
        (within("subject", 0, name="tiny-primary"), "asked for"),
        (within("subject", 0, digest={"sha256": "22"}), "sha256"),
        (within(*PREDICATE, waived=True), "waived"),
        (within(*DEFINITION, buildType="urn:other"), "buildType"),
        (within(*DEFINITION, resolvedDependencies=[]), "at least 1"),
        (within(*DEFINITION, resolvedDependencies=content()["predicate"]["buildDefinition"]["resolvedDependencies"][:1]), "dvc.lock"),  # noqa: E501
        (within(*DEFINITION, resolvedDependencies=content()["predicate"]["buildDefinition"]["resolvedDependencies"] * 2), "twice"),  # noqa: E501
        (within(*DEFINITION, "resolvedDependencies", 1, digest={"md5": "cd" * 16}), "digest"),
        (within(*DEFINITION, "resolvedDependencies", 1, digest={}), "exactly one"),
        (within(*DEFINITION, "resolvedDependencies", 0, uri="no uri"), "uri"),
        (within(*DEFINITION, "externalParameters", role="third"), "role"),
        (within(*RUN, "builder", id="me"), "id"),
        (within(*RUN, "metadata", finishedOn="2026-06-01T11:00:00Z"), "before startedOn"),
        (within(*RUN, "metadata", finishedOn="2026-13-01T11:00:00Z"), "finishedOn"),
    ],
)  # fmt: skip
def test_a_signed_statement_that_breaks_the_format_is_refused(value: object, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        verify_provenance(signed(value), TRUST)
