"""Named tensors in ``.npz`` files: never pickled, deterministic bytes, members mapped where they can be."""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.archives import require_intact, require_modest
from pipeline.core.errors import DataError, HotspareError
from pipeline.core.files import disk_errors

Array = npt.NDArray[np.generic]
Tensors = Mapping[str, Array]

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
# What zipfile and numpy raise on damaged bytes (found by flipping bytes) and on headers written to attack: MemoryError
# is a shape that no machine holds; RuntimeError is an encrypted member.
_DAMAGE = (
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RecursionError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    KeyError,
    RuntimeError,
    struct.error,
    tokenize.TokenError,
)


def encode_npz(tensors: Tensors) -> bytes:
    """Encode tensors as an uncompressed npz, sorted by name; equal tensors give equal bytes."""
    stream = io.BytesIO()
    # Not numpy.savez: a tensor called "file" would clash with its own arguments.
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(tensors):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(tensors[name]), allow_pickle=False)
    return stream.getvalue()


def cast_tensors(tensors: Tensors, dtypes: Mapping[str, npt.DTypeLike], place: str) -> dict[str, Array]:
    """Convert tensors to the types that a model takes; one whose type is not named stays as it is.

    numpy writes float64 and int64 unless it is told otherwise, so a loss of digits is fine; raises DataError where
    fractions would be cut off, or a number is beyond the type.
    """
    return {name: _cast(array, np.dtype(dtypes.get(name, array.dtype)), place, name) for name, array in tensors.items()}


def _cast(array: Array, dtype: np.dtype[np.generic], place: str, name: str) -> Array:
    if array.dtype == dtype:
        return array
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise DataError(f"{place}: {name!r} holds {array.dtype} where the model takes {dtype}; save it as that.")
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    kept = np.isfinite(cast) == np.isfinite(array) if dtype.kind == "f" else cast == array
    if not np.all(kept):
        raise DataError(f"{place}: {name!r} holds numbers beyond {dtype}, which the model takes; correct them.")
    return cast


def decode_npz(data: bytes, what: str, malformed: type[HotspareError]) -> dict[str, Array]:
    """Decode npz bytes; raises ``malformed`` when they are not an npz of plain arrays."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            require_modest(packed, len(data))
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: _plain_array(name, archive[name]) for name in sorted(archive.files)}
    except _DAMAGE as error:
        raise malformed(f"{what} is not an npz file of plain arrays ({error}); write it with numpy.savez.") from error


def _plain_array(name: str, member: object) -> Array:
    if not isinstance(member, np.ndarray):  # numpy hands out the bytes of a member that is no array
        raise TypeError(f"{name} is no array")
    return member


def map_npz(path: Path, malformed: type[HotspareError], is_checked: bool = False) -> dict[str, Array]:
    """Open an npz file; uncompressed members are memory-mapped (read-only), compressed ones are read.

    Mapped bytes are not compared with their checksums, unless ``is_checked`` asks for that, which reads the whole file:
    for the door where a file comes in. Raises ``malformed`` when the file is missing, damaged or is not an npz of
    plain arrays.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise malformed(f"{path} {problem}; check the path, or run the stage that writes it.")
    try:
        with disk_errors(path), zipfile.ZipFile(path) as archive:
            require_modest(archive, path.stat().st_size)
            if is_checked:
                require_intact(archive)
            return {_stem(info.filename): _member(path, archive, info) for info in archive.infolist()}
    except _DAMAGE as error:
        raise malformed(f"{path} is not an npz file of plain arrays ({error}); write it with numpy.savez.") from error


def _stem(name: str) -> str:
    return name.removesuffix(".npy")


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    if info.header_offset < 0:
        raise ValueError(f"{info.filename} starts before the file")
    if info.compress_type != zipfile.ZIP_STORED:
        with archive.open(info) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        header = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
        raw.seek(header[9] + header[10], io.SEEK_CUR)
        version = np.lib.format.read_magic(raw)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(raw)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        if 0 in shape:
            return np.empty(shape, dtype)
        if math.prod(shape) * dtype.itemsize > info.file_size:  # before numpy counts, whose numbers wrap around
            raise ValueError(f"{info.filename} is shorter than its shape {shape}")
        return np.memmap(raw, dtype, "r", raw.tell(), shape, "F" if fortran else "C")
