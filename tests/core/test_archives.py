"""An archive that unpacks to far more than it weighs is refused before a byte of it is unpacked."""

import copy
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.archives import ALWAYS_FINE_BYTES, RATIO_MAX, require_modest
from pipeline.core.errors import DataError
from pipeline.core.tensors import decode_npz, map_npz


def archive_of(*sizes: int) -> zipfile.ZipFile:
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    archive = zipfile.ZipFile(empty)
    for index, size in enumerate(sizes):
        info = zipfile.ZipInfo(str(index))
        info.file_size = size
        archive.filelist.append(info)
    return archive


def bomb(path: Path, name: str = "x.npy", copies: int = 100) -> Path:
    """Write 3 MB of zeros, packed, listed ``copies`` times over the same bytes."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(3 << 20, np.uint8))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, stream.getvalue())
        for number in range(copies):
            again = copy.copy(archive.filelist[0])
            again.filename = f"{number}.npy"
            archive.filelist.append(again)
    return path


@pytest.mark.parametrize(
    ("sizes", "packed"), [((ALWAYS_FINE_BYTES,), 1), ((10**10, 10**10), 2 * 10**10 // RATIO_MAX), ((), 0)]
)
def test_what_is_small_or_packed_as_real_rows_are_is_let_through(sizes: tuple[int, ...], packed: int) -> None:
    require_modest(archive_of(*sizes), packed)


@pytest.mark.parametrize(
    ("sizes", "packed"), [((ALWAYS_FINE_BYTES, 1), 1), ((10**10, 10**10), 2 * 10**10 // RATIO_MAX - 1)]
)
def test_what_unpacks_to_far_more_is_refused(sizes: tuple[int, ...], packed: int) -> None:
    with pytest.raises(ValueError, match="more than 100 times its size"):
        require_modest(archive_of(*sizes), packed)


def test_tensors_that_unpack_to_far_more_are_refused_mapped_or_decoded(tmp_path: Path) -> None:
    path = bomb(tmp_path / "x.npz")
    for read in (lambda: map_npz(path, DataError), lambda: decode_npz(path.read_bytes(), "x.npz", DataError)):
        with pytest.raises(DataError, match="unpacks to 318 MB, more than 100 times its size"):
            read()
