"""The signed statement of a bundle: OpenSSF Model Signing v1.0, an in-toto statement that lists every file's digest."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal

from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.errors import Malformed
from pipeline.core.files import is_safe_relative
from pipeline.core.schema import Rule

_SHA256 = Rule(pattern="[0-9a-f]{64}")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_WHAT = "The signed statement in bundle.sig"


@dataclass(frozen=True)
class Statement:
    """The files of a payload: (path, sha256), sorted by path."""

    files: tuple[tuple[str, str], ...]

    @property
    def bundle_id(self) -> str:
        """Return the digest that names the bundle; unlike the format's own root digest it covers the file names."""
        return bundle_id(self.files)


@dataclass(frozen=True)
class Digest:
    """A sha256 in hex: of a file's bytes, or the id of a bundle."""

    sha256: Annotated[str, _SHA256]


@dataclass(frozen=True)
class Subject:
    """What an in-toto statement is about."""

    name: str
    digest: Digest


@dataclass(frozen=True)
class _Serialization:
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: Literal[False]


@dataclass(frozen=True)
class _Resource:
    name: str
    algorithm: Literal["sha256"]
    digest: Annotated[str, _SHA256]


@dataclass(frozen=True)
class _Predicate:
    serialization: _Serialization
    resources: tuple[_Resource, ...]


@dataclass(frozen=True)
class _Head:
    subject: tuple[Subject, ...]
    predicateType: Literal["https://model_signing/signature/v1.0"]  # noqa: N815 - the name in the format
    predicate: _Predicate


def bundle_id(files: tuple[tuple[str, str], ...]) -> str:
    """Return sha256 of the canonical JSON of the (path, sha256) list sorted by path."""
    return sha256_hex(canonical_json([list(item) for item in sorted(files)]))


def read_statement(payload: bytes) -> Statement:
    """Read the signed payload of ``bundle.sig``.

    Raises Malformed for any departure from the format: other types, unknown fields, a root digest that does not
    follow from the files, paths that are unsafe, doubled or out of order.
    """
    value = parse_strict(payload, _WHAT)
    if not isinstance(value, dict) or value.pop("_type", None) != "https://in-toto.io/Statement/v1":
        raise Malformed(f"{_WHAT} is not an in-toto v1 statement.")
    head = fit(_Head, value, _WHAT)
    _check_subject(head)
    _check_paths([resource.name for resource in head.predicate.resources])
    return Statement(tuple(sorted((item.name, item.digest) for item in head.predicate.resources)))


def _check_subject(head: _Head) -> None:
    digests = b"".join(bytes.fromhex(resource.digest) for resource in head.predicate.resources)
    root = hashlib.sha256(digests).hexdigest()
    if len(head.subject) != 1 or head.subject[0].digest.sha256 != root:
        raise Malformed(f"{_WHAT} does not have the one root digest that follows from its files.")


def _check_paths(names: list[str]) -> None:
    for name in names:
        if not is_safe_relative(name) or not _PLAIN_PATH.fullmatch(name):
            raise Malformed(f"{_WHAT} names the unsafe path {name!r}.")
    if len({name.casefold() for name in names}) != len(names):
        raise Malformed(f"{_WHAT} names a path twice.")
    if names != sorted(names, key=PurePosixPath):
        raise Malformed(f"{_WHAT} lists its files out of order.")
