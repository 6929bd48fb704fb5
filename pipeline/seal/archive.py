"""Archives: a folder as one ``.tar.zst`` whose bytes follow from the folder's alone.

Sorted names, no times, owners or modes of the machine, one compression level and one thread: equal folders give equal
archives with one version of the compressor.
"""

import os
import tarfile
from pathlib import Path
from typing import BinaryIO

import zstandard

from pipeline.core.errors import FileAccess
from pipeline.core.files import disk_errors

SUFFIX = ".tar.zst"
_LEVEL = 19  # what scorecards tell a download takes
_FILE_MODE = 0o644
_CHUNK_BYTES = 1 << 20


def write_archive(folder: Path, place: Path) -> None:
    """Write ``folder`` below its own name into the new file ``place``; links and special files are refused.

    Raises FileAccess or OutOfSpace; a part of an archive may stay then, for whoever owns its folder to remove.
    """
    packer = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, threads=0)
    with disk_errors(place), place.open("xb") as stream:
        with (
            packer.stream_writer(stream, closefd=False) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in _files(folder):
                _add(archive, path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
        stream.flush()
        os.fsync(stream.fileno())


def read_archive(place: Path, into: Path) -> Path:
    """Unpack an archive of ours into the folder ``into`` and return the one folder that was in it.

    For reading back what was written: it is no guard against archives of strangers. Raises FileAccess.
    """
    with disk_errors(place), place.open("rb") as stream:
        try:
            with zstandard.ZstdDecompressor().stream_reader(stream) as plain:
                with tarfile.open(fileobj=plain, mode="r|") as archive:
                    archive.extractall(into, filter="data")
                while plain.read(_CHUNK_BYTES):  # the checksum stands at the end
                    pass
            (top,) = into.iterdir()
        except (zstandard.ZstdError, tarfile.TarError, ValueError) as error:
            raise FileAccess(f"{place} is not an archive of one folder ({error}); write it again.") from error
    return top


def _files(folder: Path) -> list[Path]:
    paths = sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix())
    odd = [path for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())]
    if odd:
        raise FileAccess(f"{odd[0]} is a link or a special file, which no release holds; remove it.")
    return [path for path in paths if path.is_file()]


def _add(archive: tarfile.TarFile, path: Path, name: str) -> None:
    with path.open("rb") as content:
        archive.addfile(_header(name, content), content)


def _header(name: str, content: BinaryIO) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.size = os.fstat(content.fileno()).st_size
    header.mode = _FILE_MODE
    return header
