"""Signing a payload with OpenSSF Model Signing v1.0, then putting the signature file into its one byte form."""

import base64
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing

from pipeline.bundle.dsse import open_sigstore_bundle
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.reading import PAYLOAD, SIGNATURE_FILE, read_payload, read_small
from pipeline.bundle.statement import read_statement
from pipeline.core.canonical import canonical_json
from pipeline.core.files import replacing_dir, write_atomic
from pipeline.seal.envelope import signature_of
from pipeline.seal.keys import private_pem


def seal_bundle(folder: Path, payload: Mapping[str, bytes], private_key: ec.EllipticCurvePrivateKey) -> None:
    """Write and sign a bundle's folder, all or nothing; an older bundle there stays until the new one is whole.

    What our own verifier would refuse is never published. Raises OutOfSpace or FileAccess.
    """
    with replacing_dir(folder) as aside:
        for name, data in payload.items():
            write_atomic(aside / PAYLOAD / name, data)
        sign_payload(aside, private_key)
        _read_back(aside, private_key.public_key())


def sign_payload(bundle: Path, private_key: ec.EllipticCurvePrivateKey) -> None:
    """Write ``bundle.sig`` beside ``payload/``: every file of the payload, none ignored.

    The library states what is signed, under a key of the moment, for it takes keys as files alone; our key signs that
    very statement, wherever it lives. The JSON is rewritten canonically, because our verifier accepts no other bytes;
    it stays a valid OMS signature. Raises OSError as the file system does.
    """
    every_file = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    signature = bundle / SIGNATURE_FILE
    with _readable_in_memory(private_pem(ec.generate_private_key(ec.SECP256R1()))) as key_path:
        signer = signing.Config().use_elliptic_key_signer(private_key=key_path).set_hashing_config(every_file)
        signer.sign(bundle / PAYLOAD, signature)
    write_atomic(signature, canonical_json(_signed_by(private_key, json.loads(signature.read_bytes()))))


def _signed_by(private_key: ec.EllipticCurvePrivateKey, stated: dict[str, Any]) -> dict[str, Any]:
    envelope = stated["dsseEnvelope"]
    signed = signature_of(base64.b64decode(envelope["payload"]), envelope["payloadType"], private_key)
    material = {**stated["verificationMaterial"], "publicKey": {"hint": key_hint(private_key.public_key())}}
    envelope = {**envelope, "signatures": [{**envelope["signatures"][0], "sig": signed}]}
    return {**stated, "verificationMaterial": material, "dsseEnvelope": envelope}


def _read_back(bundle: Path, key: ec.EllipticCurvePublicKey) -> None:
    signature = read_small(bundle / SIGNATURE_FILE)
    signed = open_sigstore_bundle(signature, {key_hint(key): key}, str(bundle / SIGNATURE_FILE))
    read_payload(bundle, read_statement(signed.payload), None)


@contextmanager
def _readable_in_memory(secret: bytes) -> Iterator[Path]:
    """Lend a secret as a path, which is all that the library takes, without writing it to a disk."""
    descriptor = os.memfd_create("signing-key")
    try:
        os.write(descriptor, secret)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
