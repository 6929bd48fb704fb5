"""Reading a bundle's folder: every file once, regular files only, nothing beside what was signed."""

import hashlib
import os
import stat
from pathlib import Path

from pipeline.bundle.statement import Statement
from pipeline.core.errors import FileAccess, HotspareError, Malformed, Tampered
from pipeline.core.files import disk_errors
from pipeline.core.printable import printable

SIGNATURE_FILE = "bundle.sig"
PAYLOAD = "payload"
SMALL_BYTES_MAX = 1 << 20
BYTES_MAX = 1 << 32  # neither model format holds more than half of this in one file
_ATTESTATIONS = "attestations"
_TOP_LEVEL = {SIGNATURE_FILE, PAYLOAD, _ATTESTATIONS}


def read_payload(path: Path, statement: Statement, size: int | None, bytes_max: int = BYTES_MAX) -> dict[str, bytes]:
    """Return the payload's bytes by path: all that was signed and nothing else, each read once and hashed.

    ``size`` is the sum that a channel tells, if there is one; without it ``bytes_max`` alone keeps a file that somebody
    blew up from filling the memory before it is hashed. Raises Tampered for every departure.
    """
    _check_top_level(path)
    found = _list_files(path / PAYLOAD)
    signed = dict(statement.files)
    for missing in sorted(signed.keys() - found.keys()):
        raise Tampered(f"{path}: {PAYLOAD}/{missing} is missing; fetch the bundle again.")
    for extra in sorted(found.keys() - signed.keys()):
        raise Tampered(f"{path}: {PAYLOAD}/{printable(extra)} was never signed; fetch the bundle again.")
    total = sum(found.values())
    if size is not None and total != size:
        raise Tampered(f"{path}: the payload has {total} bytes where the channel says {size}.")
    if total > bytes_max:
        raise Tampered(f"{path}: the payload has {total} bytes, more than the {bytes_max} that can be loaded here.")
    return {name: _read_hashed(path / PAYLOAD / name, found[name], signed[name]) for name in sorted(signed)}


def _check_top_level(path: Path) -> None:
    with disk_errors(path):
        entries = {entry.name: entry for entry in os.scandir(path)}
    if PAYLOAD not in entries:
        raise Tampered(f"{path}: {PAYLOAD}/ is missing; fetch the bundle again.")
    for extra in sorted(entries.keys() - _TOP_LEVEL):
        raise Tampered(f"{path}: {printable(extra)} does not belong into a bundle; fetch the bundle again.")
    for name in (PAYLOAD, _ATTESTATIONS):
        if name in entries and not entries[name].is_dir(follow_symlinks=False):
            raise Tampered(f"{path}: {name} is not a folder; fetch the bundle again.")


def _list_files(root: Path) -> dict[str, int]:
    """Return the size of every file below ``root``, by relative path.

    Raises Tampered for links, special files and empty folders.
    """
    found: dict[str, int] = {}
    pending = [root]
    while pending:
        folder = pending.pop()
        with disk_errors(folder):
            entries = list(os.scandir(folder))
        if not entries:
            raise Tampered(f"{printable(str(folder))} is empty, which no signature covers; fetch the bundle again.")
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                found[Path(entry.path).relative_to(root).as_posix()] = entry.stat(follow_symlinks=False).st_size
            else:
                raise Tampered(f"{printable(entry.path)} is a link or a special file; fetch the bundle again.")
    return found


def _read_hashed(path: Path, size: int, digest: str) -> bytes:
    data = _read_regular(path, size)
    if hashlib.sha256(data).hexdigest() != digest:
        raise Tampered(f"{path} differs from what was signed; fetch the bundle again.")
    return data


def read_small(path: Path) -> bytes:
    """Read a signature or channel file; Malformed above 1 MiB, FileAccess when it is not there, Tampered for a link."""
    return _read_regular(path, SMALL_BYTES_MAX, Malformed)


def _read_regular(path: Path, bytes_max: int, too_large: type[HotspareError] = Tampered) -> bytes:
    """Read a regular file of at most ``bytes_max`` bytes; never follows a link, never waits on a pipe."""
    with disk_errors(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise _missing(path) from error
        except OSError as error:
            if path.is_symlink():
                raise Tampered(f"{path} is a link, which no signature covers; fetch it again.") from error
            raise
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Tampered(f"{path} is not a regular file; fetch it again.")
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                data = stream.read(bytes_max + 1)
        finally:
            os.close(descriptor)  # here, for whatever it was: a stream of a folder is never made, and closes nothing
    if len(data) > bytes_max:
        raise too_large(f"{path} is larger than {bytes_max} bytes; fetch it again.")
    return data


def _missing(path: Path) -> HotspareError:
    if path.parent.is_dir():
        return Tampered(f"{path} is missing; fetch the whole folder again.")
    return FileAccess(f"{path.parent} does not exist; check the path.")
