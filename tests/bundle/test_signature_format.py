"""Attacks on the signed statement and its envelope that keep a good signature, so that only strictness refuses them."""

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from sealed import NOW, Sealed

from pipeline.bundle.dsse import IN_TOTO, open_sigstore_bundle, pae
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.statement import read_statement
from pipeline.bundle.verify import verify_bundle
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import Malformed, SignatureInvalid


def signed(payload: bytes, key: ec.EllipticCurvePrivateKey, payload_type: str = IN_TOTO) -> dict[str, Any]:
    signature = key.sign(pae(payload_type, payload), ec.ECDSA(SHA256()))
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key_hint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": payload_type,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


@pytest.fixture
def statement(pair: Sealed) -> dict[str, Any]:
    envelope = json.loads((pair.backup / "bundle.sig").read_bytes())["dsseEnvelope"]
    return json.loads(base64.b64decode(envelope["payload"]))


def test_what_these_tests_sign_is_accepted_when_nothing_is_wrong(pair: Sealed, policy, statement) -> None:
    (pair.backup / "bundle.sig").write_bytes(canonical_json(signed(json.dumps(statement).encode(), pair.key)))
    assert verify_bundle(pair.backup, policy, NOW).model == "tiny"


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(outer: dict[str, Any]) -> None:
        *folders, name = path.split(".")
        for folder in folders:
            outer = outer[int(folder)] if folder.isdigit() else outer[folder]
        outer[name] = value

    return change


def _two_signatures(outer: dict[str, Any]) -> None:
    outer["dsseEnvelope"]["signatures"] *= 2


def _signature_with_padding(outer: dict[str, Any]) -> None:
    """Append a byte behind the DER structure, which lax parsers skip."""
    entry = outer["dsseEnvelope"]["signatures"][0]
    entry["sig"] = base64.b64encode(base64.b64decode(entry["sig"]) + b"\0").decode()


def _signature_with_long_length(outer: dict[str, Any]) -> None:
    """Write the DER length in two bytes where one is the rule: BER, not DER."""
    entry = outer["dsseEnvelope"]["signatures"][0]
    der = base64.b64decode(entry["sig"])
    entry["sig"] = base64.b64encode(der[:1] + b"\x81" + der[1:]).decode()


ENVELOPES = {
    "an unknown field": _set("extra", 1),
    "an unknown field inside": _set("dsseEnvelope.extra", 1),
    "another media type": _set("mediaType", "application/vnd.dev.sigstore.bundle.v0.2+json"),
    "a log entry": _set("verificationMaterial.tlogEntries", [{"logIndex": "1"}]),
    "a key id": _set("dsseEnvelope.signatures.0.keyid", "x"),
    "no signature": _set("dsseEnvelope.signatures", []),
    "two signatures": _two_signatures,
    "a byte behind the signature": _signature_with_padding,
    "a length in BER": _signature_with_long_length,
    "base64 without padding": _set("dsseEnvelope.signatures.0.sig", "QQ"),
    "a number for text": _set("dsseEnvelope.payload", 1),
}


@pytest.mark.parametrize("attack", ENVELOPES)
def test_an_envelope_that_departs_from_the_format_is_malformed(pair: Sealed, statement, attack: str) -> None:
    outer = signed(json.dumps(statement).encode(), pair.key)
    ENVELOPES[attack](outer)
    hint = key_hint(pair.key.public_key())
    with pytest.raises(Malformed):
        open_sigstore_bundle(canonical_json(outer), {hint: pair.key.public_key()}, "bundle.sig")


def test_a_signature_over_another_payload_type_does_not_count(pair: Sealed, statement) -> None:
    payload = json.dumps(statement).encode()
    outer = signed(payload, pair.key, "application/vnd.hotspare.channel+json")
    keys = {key_hint(pair.key.public_key()): pair.key.public_key()}
    with pytest.raises(Malformed):
        open_sigstore_bundle(canonical_json(outer), keys, "bundle.sig")
    outer["dsseEnvelope"]["payloadType"] = IN_TOTO
    with pytest.raises(SignatureInvalid):
        open_sigstore_bundle(canonical_json(outer), keys, "bundle.sig")


def test_a_signature_under_another_keys_hint_does_not_count(pair: Sealed, statement) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    outer = signed(json.dumps(statement).encode(), pair.key)
    outer["verificationMaterial"]["publicKey"]["hint"] = key_hint(other)
    with pytest.raises(SignatureInvalid):
        open_sigstore_bundle(canonical_json(outer), {key_hint(other): other}, "bundle.sig")


@pytest.mark.parametrize("spelling", ["indented", "spaced", "reordered", "escaped", "trailing newline", "doubled key"])
def test_the_same_json_in_another_spelling_is_malformed(pair: Sealed, statement, spelling: str) -> None:
    outer = signed(json.dumps(statement).encode(), pair.key)
    canonical = canonical_json(outer)
    spelled = {
        "indented": json.dumps(outer, sort_keys=True, indent=1).encode(),
        "spaced": json.dumps(outer, sort_keys=True).encode(),
        "reordered": json.dumps(outer, separators=(",", ":")).encode(),
        "escaped": canonical.replace(b"mediaType", b"media\\u0054ype"),
        "trailing newline": canonical + b"\n",
        "doubled key": canonical.replace(b'"mediaType"', b'"mediaType":"x","mediaType"', 1),
    }[spelling]
    assert spelled != canonical
    with pytest.raises(Malformed):
        open_sigstore_bundle(spelled, {key_hint(pair.key.public_key()): pair.key.public_key()}, "bundle.sig")


def _root(statement: dict[str, Any]) -> None:
    digests = b"".join(bytes.fromhex(item["digest"]) for item in statement["predicate"]["resources"])
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()


def _rename(name: str) -> Callable[[dict[str, Any]], None]:
    def change(statement: dict[str, Any]) -> None:
        statement["predicate"]["resources"][0]["name"] = name

    return change


def _doubled(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"].insert(0, statement["predicate"]["resources"][0])


def _reversed(statement: dict[str, Any]) -> None:
    statement["predicate"]["resources"].reverse()


STATEMENTS = {
    "an absolute path": _rename("/etc/passwd"),
    "a path upwards": _rename("../../x"),
    "a path that winds": _rename("a/./b"),
    "a back slash": _rename("A\\b"),
    "a control character": _rename("A\nb"),
    "a letter that looks like another": _rename("L\u0131CENSE"),
    "an empty path": _rename(""),
    "a doubled file": _doubled,
    "files out of order": _reversed,
    "ignored paths": _set("predicate.serialization.ignore_paths", [".git"]),
    "links allowed": _set("predicate.serialization.allow_symlinks", True),
    "shards": _set("predicate.serialization.method", "shards"),
    "another hash": _set("predicate.resources.0.algorithm", "blake2b"),
    "an upper-case digest": _set("predicate.resources.0.digest", "A" * 64),
    "another predicate": _set("predicateType", "https://model_signing/Digests/v0.1"),
    "another statement": _set("_type", "https://in-toto.io/Statement/v0.1"),
    "no subject": _set("subject", []),
    "an unknown field": _set("predicate.extra", 1),
}


@pytest.mark.parametrize("attack", STATEMENTS)
def test_a_signed_statement_that_departs_from_the_format_is_malformed(statement, attack: str) -> None:
    STATEMENTS[attack](statement)
    if statement["subject"]:
        _root(statement)
    with pytest.raises(Malformed):
        read_statement(json.dumps(statement).encode())


def test_a_root_digest_that_does_not_follow_from_the_files_is_malformed(statement) -> None:
    statement["subject"][0]["digest"]["sha256"] = "0" * 64
    with pytest.raises(Malformed, match="root digest"):
        read_statement(json.dumps(statement).encode())


def test_a_doubled_key_in_the_signed_statement_is_malformed(statement) -> None:
    text = json.dumps(statement).replace('"predicateType"', '"predicateType": "x", "predicateType"')
    with pytest.raises(Malformed):
        read_statement(text.encode())


def test_the_bundle_id_covers_names_which_the_root_digest_does_not(statement) -> None:
    before = read_statement(json.dumps(statement).encode())
    statement["predicate"]["resources"][0]["name"] = "LICENCE"
    after = read_statement(json.dumps(statement).encode())
    assert before.bundle_id != after.bundle_id
