"""Files that grow chunk by chunk: made at their signed size, each chunk hashed before it is written into its place.

What a killed run left is not believed either: every chunk that seems to be there is hashed again. So there is no
journal that could be wrong, and a partial file never takes more room than the whole one.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.bundle.reading import PAYLOAD
from pipeline.core.files import disk_errors
from pipeline.delivery.chunking import average_bits, chunk_stream
from pipeline.delivery.contents import Contents, FileContents, Piece

_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # never through a link, never waiting on a pipe


@dataclass(frozen=True, order=True)
class ChunkKey:
    """What a chunk is known by."""

    sha256: str
    size: int

    def fits(self, data: bytes) -> bool:
        """Tell whether these bytes are the chunk."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256


@dataclass(frozen=True)
class Place:
    """Where a chunk belongs."""

    path: Path
    offset: int


Wanted = dict[ChunkKey, list[Place]]


def begin(root: Path, contents: Contents) -> Wanted:
    """Make a bundle's payload files at their full size, and return the chunks that they lack.

    Raises OutOfSpace or FileAccess.
    """
    lacking: Wanted = {}
    for file in contents.files:
        path = root / PAYLOAD / file.path
        is_new = _grow(path, file.size)
        for piece in file.pieces:
            key = ChunkKey(piece.sha256, piece.size)
            if is_new or not _holds(path, piece):
                lacking.setdefault(key, []).append(Place(path, piece.offset))
    return lacking


def write_chunk(places: Sequence[Place], data: bytes) -> None:
    """Write a chunk, which fits its digest, wherever it belongs; raises OutOfSpace or FileAccess."""
    for place in places:
        with disk_errors(place.path):
            descriptor = os.open(place.path, os.O_WRONLY | _SAFE)
            try:
                written = 0
                while written < len(data):  # a disk that fills up takes a part, and says so when it is given the rest
                    written += os.pwrite(descriptor, data[written:], place.offset + written)
            finally:
                os.close(descriptor)


def reuse(wanted: Wanted, contents: Contents, sources: Sequence[Path]) -> None:
    """Write the wanted chunks that earlier bundles on this machine hold, and want them no more.

    First what stands where it stood (an unchanged bundle, weights that changed in place), then what moved: the old
    files are cut as the signer cut the new ones. Every chunk is hashed as it is read; ``sources`` are bundle folders.
    """
    for source in sources:
        for file in contents.files:
            _reuse_in_place(wanted, file, source / PAYLOAD / file.path)
    for source in sources:
        for path in sorted(one for one in (source / PAYLOAD).rglob("*") if one.is_file() and not one.is_symlink()):
            for bits in _cuts_worth_trying(wanted, contents, path, path.relative_to(source / PAYLOAD).as_posix()):
                _reuse_moved(wanted, path, bits)


def _reuse_in_place(wanted: Wanted, file: FileContents, path: Path) -> None:
    if not path.is_file() or path.is_symlink():
        return
    for piece in file.pieces:
        key = ChunkKey(piece.sha256, piece.size)
        if key in wanted:
            _write_wanted(wanted, key, _read(path, piece.offset, piece.size))


def _cuts_worth_trying(wanted: Wanted, contents: Contents, path: Path, name: str) -> list[int]:
    """Return by which averages to cut an old file: those of new files that lack something and may be made of it."""
    with disk_errors(path):
        own = average_bits(path.stat().st_size)
    lacking = (file for file in contents.files if any(ChunkKey(one.sha256, one.size) in wanted for one in file.pieces))
    return sorted({file.average_bits for file in lacking if file.path == name or file.average_bits == own})


def _reuse_moved(wanted: Wanted, path: Path, bits: int) -> None:
    with disk_errors(path), os.fdopen(os.open(path, os.O_RDONLY | _SAFE), "rb") as stream:
        for chunk in chunk_stream(stream, bits):
            _write_wanted(wanted, ChunkKey(hashlib.sha256(chunk.data).hexdigest(), len(chunk.data)), chunk.data)


def _write_wanted(wanted: Wanted, key: ChunkKey, data: bytes) -> None:
    if key in wanted and key.fits(data):
        write_chunk(wanted[key], data)
        del wanted[key]


def _grow(path: Path, size: int) -> bool:
    """Make a file of ``size`` bytes, keeping what it holds; returns whether it is new."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o644)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
    return is_new


def _holds(path: Path, piece: Piece) -> bool:
    return ChunkKey(piece.sha256, piece.size).fits(_read(path, piece.offset, piece.size))


def _read(path: Path, offset: int, size: int) -> bytes:
    with disk_errors(path):
        descriptor = os.open(path, os.O_RDONLY | _SAFE)
        try:
            return os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)
