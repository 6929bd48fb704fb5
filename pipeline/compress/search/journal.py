"""What a search has found out so far, kept as it arrives: a killed search goes on where it was.

One line a result, appended. A line carries its own digest, so one that was cut by a kill, or damaged, counts as
missing and is measured again; so does everything that other code, other libraries or other data found out, because
keys are digests over all of these.
"""

import json
import os
from pathlib import Path
from typing import Any

from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.files import disk_errors

_DIGEST_CHARS = 16


class Journal:
    """Results by key, in one file; values are plain data."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._found = dict(_entries(path.read_bytes()))

    def get(self, key: str) -> Any | None:
        """Return what was kept under a key, or None."""
        return self._found.get(key)

    def put(self, key: str, value: object) -> None:
        """Keep plain data under a key; a kill after this call loses nothing. Raises OutOfSpace, FileAccess."""
        body = canonical_json([key, value])
        line = b"\n" + sha256_hex(body)[:_DIGEST_CHARS].encode() + b" " + body + b"\n"
        with disk_errors(self._path):
            os.write(self._descriptor, line)  # one call: lines of two processes do not mix
        self._found[key] = json.loads(body)[1]

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _entries(data: bytes) -> list[tuple[str, Any]]:
    return [entry for line in data.split(b"\n") if (entry := _entry(line)) is not None]


def _entry(line: bytes) -> tuple[str, Any] | None:
    digest, _, body = line.partition(b" ")
    if not body or sha256_hex(body)[:_DIGEST_CHARS].encode() != digest:
        return None
    key, value = json.loads(body)
    return str(key), value
