"""A depot in a folder: a disk, a network share, what an HTTP server serves, the folder of a DVC remote."""

import os
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import FileAccess, Malformed
from pipeline.core.files import disk_errors, fsync_dir
from pipeline.delivery.depot import bundles_of

_ASIDE = ".aside-"
_READABLE = 0o644  # an HTTP server of another user may serve the folder


@dataclass(frozen=True)
class FolderDepot:
    """Reads regular files only: a link or a pipe that somebody put there is refused."""

    root: Path
    lanes: int = 4  # a disk makes several files durable in the time of one
    frees_later: str | None = None

    @property
    def address(self) -> str:
        """The folder."""
        return str(self.root)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes, or None."""
        place = self.root / path
        with disk_errors(place):
            try:
                descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return None
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise FileAccess(f"{place} is not a regular file; publish again.")
                with os.fdopen(descriptor, "rb", closefd=False) as stream:
                    data = stream.read(bytes_max + 1)
            finally:
                os.close(descriptor)  # here: a stream of a folder is never made, and closes nothing
        if len(data) > bytes_max:
            raise Malformed(f"{place} is larger than {bytes_max} bytes; publish it again.")
        return data

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, or None."""
        place = self.root / path
        with disk_errors(place):
            try:
                return place.stat(follow_symlinks=False).st_size
            except FileNotFoundError:
                return None

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all; several publishers may write the same chunk at once."""
        place = self.root / path
        with disk_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            descriptor, aside = tempfile.mkstemp(prefix=_ASIDE, dir=place.parent)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                    stream.flush()
                    os.fchmod(descriptor, _READABLE)
                    os.fsync(descriptor)
                Path(aside).replace(place)
            except BaseException:
                Path(aside).unlink(missing_ok=True)
                raise
            fsync_dir(place.parent)

    def bundle_ids(self) -> frozenset[str]:
        """Return the bundles about which there is a file."""
        with disk_errors(self.root):
            return bundles_of(path.relative_to(self.root).as_posix() for path in self.root.glob("bundles/*/*"))

    def remove(self, path: str) -> None:
        """Remove a file, if it is there; its folder stays, in which somebody may be about to write."""
        with disk_errors(self.root / path):
            (self.root / path).unlink(missing_ok=True)
