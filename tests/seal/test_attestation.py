"""Drill attestations: what is signed is read back, and every forgery is refused."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import sealed

from pipeline.bundle.attestation import (
    PREDICATE_TYPE,
    Drilled,
    DrillStatement,
    Predicate,
    subjects,
    verify_attestation,
)
from pipeline.bundle.channel import CHANNEL_TYPE
from pipeline.bundle.dsse import IN_TOTO
from pipeline.bundle.in_toto import STATEMENT_TYPE
from pipeline.bundle.policy import KeyUse, TrustPolicy, load_policy
from pipeline.bundle.reading import SIGNATURE_FILE
from pipeline.bundle.verify import verify_bundle
from pipeline.core.canonical import canonical_json
from pipeline.core.clock import utc_now
from pipeline.core.errors import KeyFileError, Malformed, NotAccepted, SignatureInvalid, Untrusted
from pipeline.core.names import Role
from pipeline.seal.attestation import sign_attestation
from pipeline.seal.envelope import sign_envelope

KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())
DRILL = Drilled("kill-primary", "ab" * 32, 3, True, 900, 0, 0, 41.5)
PREDICATE = Predicate(
    model="tiny",
    world="live",
    started_at="2026-06-01T12:00:00Z",
    ended_at="2026-06-01T12:01:00Z",
    passed=True,
    drills=(DRILL,),
    report_sha256="cd" * 32,
    made_by="hotspare 0",
    machine={"processor": "two cores"},
    rto_ms_p95=41.5,
)
STATEMENT = DrillStatement(
    subjects("tiny", {Role.PRIMARY: "11" * 32, Role.BACKUP: "22" * 32}), PREDICATE_TYPE, PREDICATE
)


def policy(*keys: tuple[ec.EllipticCurvePrivateKey, tuple[KeyUse, ...]], models: tuple[str, ...] = ("tiny",)):
    pinned = tuple((key.public_key(), uses) for key, uses in keys)
    return TrustPolicy(pinned, models, Path("state"), None, "stable")


TRUST = policy((KEY, tuple(KeyUse)))


GOOD = sign_attestation(STATEMENT, KEY, TRUST)  # once: signatures differ in length


def signed(value: object, payload_type: str = IN_TOTO) -> bytes:
    """Sign anything at all with the pinned key, as a careless signer would."""
    return sign_envelope(value if isinstance(value, bytes) else canonical_json(value), payload_type, KEY)


def content() -> dict:
    return json.loads(STATEMENT.to_bytes())


def test_what_was_signed_is_read_back_with_its_pair_and_time() -> None:
    read = verify_attestation(sign_attestation(STATEMENT, KEY, TRUST), TRUST)
    assert read == STATEMENT
    assert [read.bundle_id(role) for role in Role] == ["11" * 32, "22" * 32]
    assert read.ended_at.minute == 1


def test_the_payload_is_an_in_toto_statement_over_both_bundle_ids() -> None:
    envelope = json.loads(sign_attestation(STATEMENT, KEY, TRUST))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == STATEMENT_TYPE
    assert [one["digest"]["sha256"] for one in statement["subject"]] == ["11" * 32, "22" * 32]
    assert statement["predicateType"] == PREDICATE_TYPE


def test_a_key_that_is_not_pinned_is_refused() -> None:
    with pytest.raises(SignatureInvalid):
        verify_attestation(sign_envelope(STATEMENT.to_bytes(), IN_TOTO, OTHER), TRUST)


@pytest.mark.parametrize("uses", [(KeyUse.BUNDLE,), (KeyUse.CHANNEL,), (KeyUse.BUNDLE, KeyUse.CHANNEL)])
def test_a_key_pinned_for_another_use_is_refused_by_reader_and_signer(uses: tuple[KeyUse, ...]) -> None:
    narrow = policy((KEY, uses))
    with pytest.raises(SignatureInvalid):
        verify_attestation(sign_attestation(STATEMENT, KEY, TRUST), narrow)
    with pytest.raises(KeyFileError, match="add `drill` to the uses"):
        sign_attestation(STATEMENT, KEY, narrow)


def test_the_key_id_of_a_pinned_key_over_a_foreign_signature_is_refused() -> None:
    ours, theirs = (json.loads(sign_envelope(STATEMENT.to_bytes(), IN_TOTO, key)) for key in (KEY, OTHER))
    theirs["signatures"][0]["keyid"] = ours["signatures"][0]["keyid"]
    with pytest.raises(SignatureInvalid):
        verify_attestation(canonical_json(theirs), TRUST)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_can_be_changed(data: st.DataObject) -> None:
    good = GOOD
    place = data.draw(st.integers(0, len(good) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    with pytest.raises(Untrusted):
        verify_attestation(good[:place] + bytes([byte]) + good[place + 1 :], TRUST)


def test_a_lie_about_the_verdict_under_the_old_signature_is_refused() -> None:
    envelope = json.loads(sign_attestation(STATEMENT, KEY, TRUST))
    better = STATEMENT.to_bytes().replace(b'"rto_ms_p95":41.5', b'"rto_ms_p95":1.5')
    envelope["payload"] = base64.b64encode(better).decode()
    with pytest.raises(SignatureInvalid):
        verify_attestation(canonical_json(envelope), TRUST)


@pytest.mark.parametrize("place", [(), ("predicate",), ("predicate", "drills", 0), ("subject", 0), ("subject", 1)])
def test_a_signed_statement_with_an_unknown_field_anywhere_is_refused(place: tuple[str | int, ...]) -> None:
    value = content()
    inner = value
    for key in place:
        inner = inner[key]
    inner["waived"] = True
    with pytest.raises(Malformed, match="waived"):
        verify_attestation(signed(value), TRUST)


def changed(**changes: object) -> dict:
    value = content()
    value["predicate"] |= changes
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (content() | {"_type": "https://in-toto.io/Statement/v0.1"}, "not an in-toto v1"),
        ({key: item for key, item in content().items() if key != "_type"}, "not an in-toto v1"),
        (content() | {"predicateType": "https://slsa.dev/provenance/v1"}, "predicateType"),
        (content() | {"subject": content()["subject"][::-1]}, "in this order"),
        (content() | {"subject": content()["subject"][:1]}, "expected 2"),
        (content() | {"subject": content()["subject"] * 2}, "expected 2"),
        (changed(model="other"), "in this order"),
        (changed(passed=False), "does not follow|not what follows"),
        (changed(world="dream"), "world"),
        (changed(drills=[]), "drills"),
        (changed(drills=content()["predicate"]["drills"] * 2), "twice"),
        (changed(ended_at="2026-06-01T11:00:00Z"), "before started_at"),
        (changed(ended_at="2026-13-01T11:00:00Z"), "ended_at"),
        (changed(rto_ms_p95=-1.0), "rto_ms_p95"),
        (changed(report_sha256="CD" * 32), "report_sha256"),
        ([], "not an in-toto v1"),
    ],
)
def test_a_signed_statement_that_breaks_the_format_is_refused(value: object, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        verify_attestation(signed(value), TRUST)


def test_one_bundle_cannot_stand_for_both() -> None:
    value = content()
    value["subject"][1]["digest"] = value["subject"][0]["digest"]
    with pytest.raises(Malformed, match="one bundle"):
        verify_attestation(signed(value), TRUST)


def test_a_second_byte_form_of_a_signed_statement_is_refused() -> None:
    with pytest.raises(Malformed, match="one byte form"):
        verify_attestation(signed(json.dumps(content(), indent=1).encode()), TRUST)


def test_a_signed_statement_with_text_that_has_no_bytes_is_refused() -> None:
    half = json.dumps(changed(made_by="\ud800"), sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(Malformed, match="one byte form"):
        verify_attestation(signed(half), TRUST)


def test_a_bundles_signature_is_no_attestation_and_an_attestation_no_bundles_signature(tmp_path: Path) -> None:
    files = sealed(tmp_path / "files")  # one key pinned for every use, as `hotspare keys new` writes it
    trust, place = load_policy(files.trust), files.primary / SIGNATURE_FILE
    of_bundle = json.loads(place.read_bytes())
    envelope, key = of_bundle["dsseEnvelope"], of_bundle["verificationMaterial"]["publicKey"]["hint"]
    bare = {**envelope, "signatures": [{**envelope["signatures"][0], "keyid": key}]}
    with pytest.raises(Malformed, match="predicateType"):
        verify_attestation(canonical_json(bare), trust)
    attested = json.loads(sign_attestation(STATEMENT, files.key, trust))
    of_bundle["dsseEnvelope"] = {**attested, "signatures": [{**attested["signatures"][0], "keyid": ""}]}
    place.write_bytes(canonical_json(of_bundle))
    with pytest.raises(Malformed, match="predicateType"):
        verify_bundle(files.primary, trust, utc_now())


def test_a_channel_envelope_is_no_attestation() -> None:
    with pytest.raises(Malformed, match="belongs"):
        verify_attestation(signed(content(), CHANNEL_TYPE), TRUST)


def test_an_attestation_about_a_model_that_the_policy_does_not_name_is_refused() -> None:
    with pytest.raises(NotAccepted):
        verify_attestation(sign_attestation(STATEMENT, KEY, TRUST), policy((KEY, tuple(KeyUse)), models=("credit",)))


def test_a_failed_drill_is_attested_as_failed() -> None:
    missed = replace(DRILL, passed=False, misses=("lost 3, allowed 0",), lost=3)
    failed = replace(STATEMENT, predicate=replace(PREDICATE, passed=False, drills=(missed,)))
    assert not verify_attestation(sign_attestation(failed, KEY, TRUST), TRUST).predicate.passed
    boast = replace(failed, predicate=replace(failed.predicate, passed=True))
    with pytest.raises(Malformed, match="not what follows"):
        sign_attestation(boast, KEY, TRUST)
