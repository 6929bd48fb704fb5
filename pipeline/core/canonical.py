"""Canonical bytes and digests: one value has one byte form, so that digests and signatures can stand for it."""

import hashlib
import json
from pathlib import Path

_CHUNK_BYTES = 1 << 20


def canonical_json(value: object) -> bytes:
    """Encode plain data as UTF-8 JSON with sorted keys and no white space (in the spirit of RFC 8785).

    Raises ValueError for NaN and infinities, which JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8")


def readable_json(value: object) -> bytes:
    """Encode plain data as sorted, indented JSON with a final newline, for files that people read."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 lower-case hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, read in bounded chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
