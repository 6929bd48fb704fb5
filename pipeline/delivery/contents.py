"""``contents.sig``: which chunks the files of a bundle are made of, signed by a key pinned for bundles.

It says nothing that the bundle's own signature does not say of the assembled files. It is signed so that a depot cannot
make a node fetch anything else, or more, than its signer meant.
"""

import base64
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.bundle.dsse import open_envelope
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import Malformed
from pipeline.core.files import is_safe_relative
from pipeline.core.schema import Rule, plain
from pipeline.delivery.chunking import AVERAGE_BITS_MAX, AVERAGE_BITS_MIN

CONTENTS_TYPE = "application/vnd.hotspare.contents+json"
# A chunk takes about 64 bytes here, and the largest bundle that can be loaded (4 GiB) has 4,096 to 8,192 chunks, at the
# very most 16,384: a megabyte. Four leave room for thousands of small files.
CONTENTS_BYTES_MAX = 4 << 20

_SHA256 = Rule(pattern="[0-9a-f]{64}")
_PATH = Rule("Below payload/.", pattern="[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Piece:
    """A chunk of a file: its digest, and which bytes of the file it is."""

    sha256: str
    offset: int
    size: int


@dataclass(frozen=True)
class FileContents:
    """The chunks of one file, in order; their digests stand in one text, which takes a third less than hex."""

    path: Annotated[str, _PATH]
    average_bits: Annotated[int, Rule("log2 of the average chunk.", minimum=AVERAGE_BITS_MIN, maximum=AVERAGE_BITS_MAX)]
    sizes: tuple[Annotated[int, Rule("Bytes.", minimum=1)], ...]
    digests: Annotated[str, Rule("SHA-256 of every chunk, one after the other, base64.")]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if not is_safe_relative(self.path):
            yield "path: it leaves its folder"
        if max(self.sizes, default=0) > 4 << self.average_bits:
            yield "sizes: a chunk of more than four times the average"
        try:
            raw = base64.b64decode(self.digests, validate=True)
        except ValueError:
            yield "digests: not base64"
        else:
            if len(raw) != _DIGEST_BYTES * len(self.sizes):
                yield "digests: not one for every size"

    @property
    def size(self) -> int:
        """Return the file's size in bytes."""
        return sum(self.sizes)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """Return the chunks with their places."""
        raw = base64.b64decode(self.digests)
        digests = (raw[at : at + _DIGEST_BYTES].hex() for at in range(0, len(raw), _DIGEST_BYTES))
        offsets = itertools.accumulate(self.sizes, initial=0)
        return tuple(Piece(*found) for found in zip(digests, offsets, self.sizes, strict=False))


@dataclass(frozen=True)
class Contents:
    """What a bundle's payload is made of."""

    schema_version: Literal[1]
    bundle_id: Annotated[str, _SHA256]
    files: Annotated[tuple[FileContents, ...], Rule("Sorted by path.", min_items=1)]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        paths = [file.path for file in self.files]
        if paths != sorted(set(paths)):
            yield "files: not sorted by path, each once"

    @property
    def size(self) -> int:
        """Return the bytes of all files together."""
        return sum(file.size for file in self.files)

    def to_bytes(self) -> bytes:
        """Return the one byte form."""
        return canonical_json(plain(self))


def file_contents(path: str, bits: int, chunks: Sequence[tuple[str, int]]) -> FileContents:
    """Return what a file of these chunks (digest, size) is made of."""
    raw = b"".join(bytes.fromhex(digest) for digest, _ in chunks)
    return FileContents(path, bits, tuple(size for _, size in chunks), base64.b64encode(raw).decode("ascii"))


def read_contents(data: bytes, policy: TrustPolicy, what: str) -> tuple[Contents, str]:
    """Return what ``contents.sig`` says, and the hint of the key that signed it.

    Raises Malformed when a byte departs from the format, SignatureInvalid when no key pinned for bundles signed it.
    """
    signed = open_envelope(data, CONTENTS_TYPE, policy.keys_for(KeyUse.BUNDLE), what)
    inside = f"The contents in {what}"
    contents = fit(Contents, parse_strict(signed.payload, inside), inside)
    if contents.to_bytes() != signed.payload:
        raise Malformed(f"{inside} are not in their one byte form; publish again.")
    return contents, signed.key_hint


def unverified_contents(data: bytes, what: str) -> Contents:
    """Return what ``contents.sig`` says, whoever signed it: to keep the chunks that it names, not to believe it.

    Raises Malformed.
    """
    envelope = parse_strict(data, what)
    payload = envelope.get("payload") if isinstance(envelope, dict) else None
    try:
        inside = base64.b64decode(str(payload), validate=True)
    except ValueError as error:
        raise Malformed(f"{what} is no signed list of chunks; publish again.") from error
    return fit(Contents, parse_strict(inside, f"The contents in {what}"), f"The contents in {what}")


def check_contents(contents: Contents, bundle_id: str, files: Mapping[str, str], size: int, what: str) -> None:
    """Raise Malformed unless the contents are those of this bundle: its id, its very files, the channel's size."""
    if contents.bundle_id != bundle_id:
        raise Malformed(f"{what} is of the bundle {contents.bundle_id}, not of {bundle_id}; publish again.")
    if {file.path for file in contents.files} != files.keys():
        raise Malformed(f"{what} lists other files than the bundle's signature; publish again.")
    if contents.size != size:
        raise Malformed(f"{what} adds up to {contents.size} bytes where the channel says {size}; publish again.")
