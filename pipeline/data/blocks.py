"""Arrays larger than memory, written and unpacked a block of rows at a time."""

import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.archives import require_modest
from pipeline.core.errors import DataError
from pipeline.core.tensors import Array, Tensors, map_npz

_BLOCK_BYTES = 1 << 22
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, KeyError)


def map_unpacked(path: Path, scratch: Path) -> dict[str, Array]:
    """Map the npz at ``path``, through an unpacked copy at ``scratch`` where it is compressed; read-only.

    Raises DataError when the file is missing, damaged or is not an npz of plain arrays.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return map_npz(path, DataError)
    try:
        with zipfile.ZipFile(path) as archive:
            if all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist()):
                return map_npz(path, DataError, is_checked=True)
            require_modest(archive, path.stat().st_size)
            _unpack(archive, scratch)
        return map_npz(scratch, DataError)
    except DataError as error:
        raise DataError(str(error).replace(str(scratch), str(path))) from error
    except _DAMAGE as error:
        raise DataError(f"{path} is not an npz file of plain arrays ({error}); write it with numpy.savez.") from error


def _unpack(archive: zipfile.ZipFile, target: Path) -> None:
    with zipfile.ZipFile(target, "w") as plain:
        for info in archive.infolist():
            with archive.open(info) as packed, plain.open(info.filename, "w", force_zip64=True) as member:
                shutil.copyfileobj(packed, member, _BLOCK_BYTES)


def write_rows(
    path: Path,
    tensors: Tensors,
    rows: npt.NDArray[np.int64] | None = None,
    dtypes: Mapping[str, npt.DTypeLike] | None = None,
) -> None:
    """Write the given rows (all without ``rows``) of every array as an uncompressed npz, sorted by name.

    ``dtypes`` names arrays to convert on the way. Memory: some megabytes, however long the arrays are.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name in sorted(tensors):
            array = tensors[name]
            dtype = np.dtype((dtypes or {}).get(name, array.dtype))
            count = len(array) if rows is None else len(rows)
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                descr = np.lib.format.dtype_to_descr(dtype)
                header = {"descr": descr, "fortran_order": False, "shape": (count, *array.shape[1:])}
                np.lib.format.write_array_header_1_0(member, header)
                for block in _blocks(array, rows):
                    member.write(np.ascontiguousarray(block, dtype).tobytes())


def _blocks(array: Array, rows: npt.NDArray[np.int64] | None) -> Iterator[Array]:
    row_bytes = max(1, array.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, len(array) if rows is None else len(rows), step):
        yield array[start : start + step] if rows is None else array[rows[start : start + step]]
