"""Tables, ``.parquet`` and ``.csv``: chosen columns streamed into arrays on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array
from pipeline.data.splits import BESIDE_INPUTS, SINGLE_INPUT

ColumnMap = Mapping[str, Sequence[str]]

_ROWS_A_BATCH = 1 << 15
_INT32 = np.iinfo(np.int32)
_WHOLE_MAX = 2**53  # above this a float64 leaves out integers


@dataclass
class _Growing:
    """One array growing on disk; integers are kept wide until their range is known.

    So are numbers that may yet turn out to be integers: in float64, which holds them exactly up to 2^53.
    """

    path: Path
    stream: BinaryIO
    dtype: np.dtype[Any]
    shape: tuple[int, ...] | None = None
    rows: int = 0
    low: int = 0
    high: int = 0
    is_whole: bool = True

    def add(self, block: Array) -> None:
        if self.shape not in (None, block.shape[1:]):
            raise DataError(f"its lists differ in length ({self.shape} and {block.shape[1:]}); make them equal.")
        self.shape = block.shape[1:]
        self.rows += len(block)
        self.is_whole = self.is_whole and (self.dtype.kind == "i" or (self.dtype == np.float64 and _are_whole(block)))
        if block.size and self.is_whole:
            self.low, self.high = min(self.low, int(block.min())), max(self.high, int(block.max()))
        self.stream.write(np.ascontiguousarray(block, self.dtype).tobytes())

    def mapped(self) -> Array:
        self.stream.close()
        shape = (self.rows, *(self.shape or ()))
        return np.memmap(self.path, self.dtype, "r", 0, shape) if self.rows else np.empty(shape, self.dtype)

    def final_dtype(self) -> npt.DTypeLike:
        if not self.is_whole:
            return np.float32
        return np.int32 if _INT32.min <= self.low and self.high <= _INT32.max else np.int64


def _are_whole(numbers: Array) -> bool:
    return bool(((np.abs(numbers) <= _WHOLE_MAX) & (numbers == np.floor(numbers))).all())


@dataclass
class _Unusable:
    """Rows of a column that hold no finite number."""

    count: int = 0
    first: int = -1


@dataclass(frozen=True)
class Streamed:
    """Arrays mapped from scratch files, and the types to write them as."""

    arrays: dict[str, Array]
    dtypes: dict[str, npt.DTypeLike] = field(default_factory=dict)


def stream_table(path: Path, columns: ColumnMap | None, scratch: Path) -> Streamed:
    """Write the table's columns into arrays below ``scratch`` and map them.

    ``columns`` names, by array, the columns that make it: (n, k), integers as int32, else float32; ``y``, ``group``
    and ``weight`` of one column are (n,). A column of equally long lists makes (n, length). Without it, the columns of
    those three names are those, and all others make ``x``.
    Raises DataError for a file that is no table, a missing, empty or non-numeric column, NaN or infinity.
    """
    try:
        types = _types(path)
        chosen = dict(columns) if columns else _all_columns(path, types)
        _require_columns(path, chosen, types)
        try:
            return _stream(path, chosen, types, scratch)
        except pa.ArrowInvalid:
            if not path_is_csv(path):
                raise
            # The types of a csv are guessed from its beginning: whole numbers there may be fractions further on.
            doubted = frozenset(name for name, kind in types.items() if _is_whole(kind))
            wider = {name: pa.float64() if name in doubted else kind for name, kind in types.items()}
            return _stream(path, chosen, wider, scratch, doubted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, OSError, UnicodeDecodeError) as error:
        brief = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read as a table ({brief}); correct it.") from error


def path_is_csv(path: Path) -> bool:
    """Tell a csv, also a compressed one, by its name: it has no mark of its own."""
    return ".csv" in path.suffixes[-2:]


def _is_whole(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_null(kind))


def _types(path: Path) -> dict[str, Any]:
    if path_is_csv(path):
        with pyarrow.csv.open_csv(path) as reader:
            schema = reader.schema
    else:
        schema = pyarrow.parquet.read_schema(path)
    repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if repeated:
        raise DataError(f"{path} has several columns called {', '.join(map(repr, repeated))}; rename them.")
    return dict(zip(schema.names, schema.types, strict=True))


def _batches(path: Path, names: Sequence[str], types: Mapping[str, Any]) -> Iterator[Any]:
    if path_is_csv(path):
        options = pyarrow.csv.ConvertOptions(include_columns=names, column_types={name: types[name] for name in names})
        with pyarrow.csv.open_csv(path, convert_options=options) as reader:
            yield from reader
    else:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield from file.iter_batches(_ROWS_A_BATCH, columns=list(names))


def _all_columns(path: Path, types: Mapping[str, Any]) -> dict[str, list[str]]:
    beside = {name: [name] for name in types if name in BESIDE_INPUTS}
    inputs = [name for name in types if name not in BESIDE_INPUTS]
    text = [name for name in inputs if not _is_number(types[name])]
    if text:
        raise DataError(
            f"{path}: the column {text[0]!r} holds {types[text[0]]}, not numbers; name the columns to take with "
            "--columns, or turn it into numbers."
        )
    return {SINGLE_INPUT: inputs, **beside}


def _require_columns(path: Path, chosen: ColumnMap, types: Mapping[str, Any]) -> None:
    for key, names in chosen.items():
        if not names:
            raise DataError(f"{path}: no column makes the array {key!r}; name at least one.")
        for name in names:
            if name not in types:
                raise DataError(f"{path} has no column {name!r} for {key!r}; its columns are {', '.join(types)}.")
            is_list = _item_type(types[name]) is not None and len(names) == 1
            if not _is_number(types[name]) and not is_list:
                raise DataError(
                    f"{path}: the column {name!r} holds {types[name]}, not numbers; turn it into numbers first."
                )


def _is_number(kind: Any) -> bool:
    tests = (
        pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null,
    )  # fmt: skip
    return any(test(kind) for test in tests)


def _item_type(kind: Any) -> Any | None:
    """Return the type of a list column's items, or None for another column."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return kind.value_type if is_list and _is_number(kind.value_type) else None


def _stream(
    path: Path, chosen: ColumnMap, types: Mapping[str, Any], scratch: Path, doubted: frozenset[str] = frozenset()
) -> Streamed:
    """Stream the chosen columns; ``doubted`` are read as floats and may still hold integers alone, such as ids."""
    dtypes = {
        key: np.dtype(np.float64) if doubted.issuperset(names) else _dtype([types[name] for name in names])
        for key, names in chosen.items()
    }
    growing = {
        key: _Growing(place := scratch / f"column-{index}", place.open("wb"), dtypes[key])
        for index, key in enumerate(sorted(chosen))
    }
    unusable = {name: _Unusable() for names in chosen.values() for name in names}
    try:
        rows = 0
        for batch in _batches(path, list(unusable), types):
            for key, array in growing.items():
                block = [_numbers(batch.column(name), rows, unusable[name], array.dtype) for name in chosen[key]]
                try:
                    array.add(_joined(key, block))
                except DataError as error:
                    raise DataError(f"{path}: the column {chosen[key][0]!r}: {error}") from error
            rows += batch.num_rows
    finally:
        for array in growing.values():
            array.stream.close()
    _require_usable(path, rows, unusable)
    arrays = {key: array.mapped() for key, array in growing.items()}
    return Streamed(arrays, {key: array.final_dtype() for key, array in growing.items()})


def _dtype(kinds: Sequence[Any]) -> np.dtype[Any]:
    items = [_item_type(kind) or kind for kind in kinds]
    whole = all(pa.types.is_integer(kind) or pa.types.is_boolean(kind) for kind in items)
    return np.dtype(np.int64 if whole else np.float32)


def _numbers(column: Any, start: int, unusable: _Unusable, dtype: np.dtype[Any]) -> Array:
    """Return a column's block as numbers, (rows,) or (rows, length); counts rows that are empty, NaN or infinite."""
    empty = column.is_null().to_numpy(zero_copy_only=False)
    item = _item_type(column.type)
    if item is None:
        values = _plain(column, dtype)
    elif empty.any():
        raise DataError("a list is empty; fill it or drop the row.")
    else:
        lengths = np.diff(np.asarray(_offsets(column)))
        if lengths.size and (lengths != lengths[0]).any():
            raise DataError("its lists differ in length; make them equal.")
        values = _plain(column.flatten(), dtype).reshape(len(column), -1)
        empty = empty | column.flatten().is_null().to_numpy(zero_copy_only=False).reshape(len(column), -1).any(axis=1)
    bad = empty | ~np.isfinite(values).reshape(len(values), -1).all(axis=1) if len(values) else empty
    if bad.any():
        if unusable.first < 0:
            unusable.first = start + int(np.flatnonzero(bad)[0])
        unusable.count += int(bad.sum())
    return values


def _plain(column: Any, dtype: np.dtype[Any]) -> Array:
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan, np.float32)
    number = pa.int64() if dtype.kind == "i" else pa.float64()
    filled = column.cast(number, safe=False) if not pa.types.is_boolean(column.type) else column.cast(pa.int8())
    values: Array = np.asarray(filled.fill_null(0).to_numpy(zero_copy_only=False))
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype)


def _offsets(column: Any) -> Array:
    if pa.types.is_fixed_size_list(column.type):
        return np.arange(len(column) + 1) * int(column.type.list_size)
    return np.asarray(column.offsets)


def _joined(key: str, blocks: Sequence[Array]) -> Array:
    if len(blocks) == 1 and (key in BESIDE_INPUTS or blocks[0].ndim > 1):
        return blocks[0]
    return np.stack(blocks, axis=1)


def _require_usable(path: Path, rows: int, unusable: Mapping[str, _Unusable]) -> None:
    for name, found in unusable.items():
        if found.count:
            raise DataError(
                f"{path}: {found.count} of {rows} rows of the column {name!r} are empty, NaN or infinite, the first is "
                f"row {found.first}; fill or drop them."
            )
