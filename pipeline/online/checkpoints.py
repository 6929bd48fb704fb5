"""Checkpoints: the state as a bundle of its own, sealed by a key for updates, verified before it is loaded."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.dsse import IN_TOTO
from pipeline.bundle.golden import read_golden
from pipeline.bundle.learning import (
    CHECKPOINT_FILE,
    LEARNING_FILE,
    Checkpoint,
    Learning,
    checkpoint_manifest,
    read_checkpoint,
    read_learning,
)
from pipeline.bundle.manifest import GOLDEN_FILE, MANIFEST_FILE, TOLERANCES_FILE
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.reading import PAYLOAD, SIGNATURE_FILE
from pipeline.bundle.verify import VerifiedBundle, verify_checkpoint
from pipeline.core.canonical import canonical_json, readable_json, sha256_hex
from pipeline.core.clock import utc_now
from pipeline.core.errors import RolledBack
from pipeline.core.files import replacing_dir
from pipeline.core.schema import plain
from pipeline.core.tensors import encode_npz
from pipeline.engines.base import Session
from pipeline.online.learner import Head, with_head
from pipeline.online.records import Tip
from pipeline.runtime.loading import load_ready
from pipeline.seal.envelope import signature_of
from pipeline.seal.measured import measure_golden


@dataclass(frozen=True)
class Loaded:
    """A checkpoint that answers."""

    bundle: VerifiedBundle
    checkpoint: Checkpoint
    session: Session


def learnable(payload: Mapping[str, bytes], learning: Learning) -> dict[str, bytes]:
    """Return a bundle's payload with what of it may learn; sealed by a bundle key it is a base."""
    return {**payload, LEARNING_FILE: readable_json(plain(learning))}


def checkpoint_payload(base: VerifiedBundle, head: Head, tip: Tip) -> dict[str, bytes]:
    """Return the payload of a checkpoint: the base's files, its model with another state, golden rows answered anew.

    Raises ModelError when the model answers with NaN.
    """
    files = changed_files(base, head)
    golden = read_golden(base.files)
    entrypoint = base.manifest.entrypoint
    measured = measure_golden(entrypoint.format, files[entrypoint.path], golden.inputs)
    checkpoint = Checkpoint(1, base.bundle_id, tip.epoch, tip.seq, tip.digest.hex())
    return {
        **files,
        GOLDEN_FILE: encode_npz(measured.outputs),
        TOLERANCES_FILE: readable_json(plain(replace(measured.tolerances, from_parent=None))),
        CHECKPOINT_FILE: readable_json(plain(checkpoint)),
    }


def changed_files(base: VerifiedBundle, head: Head) -> dict[str, bytes]:
    """Return the base's files, its model with another state: of a checkpoint, all but what is measured and said."""
    return {
        **base.files,
        base.manifest.entrypoint.path: with_head(base.model_file, read_learning(base.files), head),
        MANIFEST_FILE: readable_json(plain(checkpoint_manifest(base.manifest, base.model_file))),
    }


def tip_of(checkpoint: Checkpoint) -> Tip:
    """Return the record that a checkpoint holds the state of."""
    return Tip(checkpoint.epoch, checkpoint.seq, bytes.fromhex(checkpoint.record))


def seal_checkpoint(folder: Path, payload: Mapping[str, bytes], key: ec.EllipticCurvePrivateKey) -> None:
    """Write and sign a checkpoint's folder, all or nothing; the one before stays until this one is whole.

    The statement is written here and not by model-signing, whose import takes longer than a takeover may; model-signing
    verifies it. Raises OutOfSpace or FileAccess.
    """
    with replacing_dir(folder) as aside:
        write_checkpoint(aside, payload, signature_file(payload, key))


def write_checkpoint(aside: Path, payload: Mapping[str, bytes], signature: bytes) -> None:
    """Write a checkpoint's files into an empty folder; who put it in place makes it durable."""
    for name, data in payload.items():
        path = aside / PAYLOAD / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (aside / SIGNATURE_FILE).write_bytes(signature)


def signature_file(payload: Mapping[str, bytes], key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the ``bundle.sig`` of a payload (OpenSSF Model Signing v1.0)."""
    stated = _statement(payload)
    return canonical_json(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": key_hint(key.public_key())}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(stated).decode("ascii"),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": signature_of(stated, IN_TOTO, key), "keyid": ""}],
            },
        }
    )


def _statement(payload: Mapping[str, bytes]) -> bytes:
    digests = {name: sha256_hex(payload[name]) for name in sorted(payload, key=PurePosixPath)}
    root = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
    return json.dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": PAYLOAD, "digest": {"sha256": root}}],
            "predicateType": "https://model_signing/signature/v1.0",
            "predicate": {
                "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in digests.items()
                ],
            },
        }
    ).encode("utf-8")


def load_checkpoint(folder: Path, base: VerifiedBundle, policy: TrustPolicy, tip: Tip) -> Loaded:
    """Verify a checkpoint, require that it holds the log up to ``tip``, and load it from the bytes that were hashed.

    Raises RolledBack for a genuine checkpoint of another place in the log, and what verifying and loading raise.
    """
    bundle = verify_checkpoint(folder, base, policy, utc_now())
    checkpoint = read_checkpoint(bundle.files)
    if tip_of(checkpoint) != tip:
        raise RolledBack(f"{folder} holds updates up to {checkpoint.seq}, not {tip.seq} of this log; make it again.")
    return Loaded(bundle, checkpoint, load_ready(bundle))
