"""A person's data, however it comes (npz, parquet, csv, their own function), into the four splits."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy.typing as npt

from pipeline.core.environment import STORE, for_children
from pipeline.core.errors import DataError, UsageError
from pipeline.core.files import disk_errors, read_json, replacing_dir
from pipeline.core.tensors import Array, Tensors, map_npz
from pipeline.data.blocks import map_unpacked, write_rows
from pipeline.data.calling import FAILURE_FILE, WHOLE
from pipeline.data.checks import check_finite, check_rows
from pipeline.data.partition import SHARES, deal
from pipeline.data.splits import BESIDE_INPUTS, GROUPS, SINGLE_INPUT

FUNCTION = r"[A-Za-z_][\w.]*:[A-Za-z_]\w*"
_PARQUET, _ZIP = b"PAR1", b"PK\x03\x04"
_NO_ZIP_YET = b"PK\x05\x06"  # an npz without members
_PLAIN = frozenset({*BESIDE_INPUTS, SINGLE_INPUT})


def write_splits(spec: str, columns: Mapping[str, Sequence[str]] | None, folder: Path, seed: int) -> None:
    """Write ``folder``/{train,calibration,validation,test}.npz from any kind of data; replaces ``folder`` whole.

    ``spec`` is an ``.npz`` (``x`` or the inputs by name; ``y``, ``group``, ``weight`` and arrays for slices if there
    are any), a ``.parquet`` or ``.csv``, or ``module:function``, which returns arrays by name, or those by split.
    ``columns`` names the columns of a table by array; for an npz or a function it renames (one name an array) and
    leaves out what it does not name. Rows are copied by blocks: memory does not grow with a file that can be mapped.
    Raises DataError for fewer than 200 rows (or groups), missing or non-numeric arrays, unequal row counts, NaN.
    """
    with replacing_dir(folder) as aside, TemporaryDirectory(prefix=".scratch-", dir=aside) as scratch:
        by_split = _function_splits(spec, columns, Path(scratch)) if _is_function(spec) else None
        if by_split is not None:
            for name, tensors in by_split.items():
                write_rows(aside / f"{name}.npz", tensors)
            return
        tensors, dtypes = _tensors(spec, columns, Path(scratch))
        _check(spec, tensors)
        try:
            dealt = deal(len(next(iter(tensors.values()))), tensors.get(GROUPS), seed)
        except DataError as error:
            raise DataError(f"{spec}: {error}") from error
        with disk_errors(folder):
            for name, rows in dealt.items():
                write_rows(aside / f"{name}.npz", tensors, rows, dtypes)


def parse_columns(text: str) -> dict[str, tuple[str, ...]]:
    """Read ``x=age,income;y=default`` into a column map; raises UsageError for another form or a repeated array."""
    found: dict[str, tuple[str, ...]] = {}
    for part in filter(None, text.split(";")):
        key, _, names = (piece.strip() for piece in part.partition("="))
        columns = tuple(name.strip() for name in names.split(","))
        if not key or not all(columns) or key in found:
            raise UsageError(f"{text!r} is no column map; name each array once, as in 'x=age,income;y=default'.")
        found[key] = columns
    if not found:
        raise UsageError(f"{text!r} is no column map; write it as 'x=age,income;y=default'.")
    return found


def _is_function(spec: str) -> bool:
    return re.fullmatch(FUNCTION, spec) is not None and not Path(spec).exists()


def _tensors(
    spec: str, columns: Mapping[str, Sequence[str]] | None, scratch: Path
) -> tuple[Tensors, Mapping[str, npt.DTypeLike]]:
    if _is_function(spec):
        return _renamed(spec, map_npz(scratch / f"{WHOLE}.npz", DataError), columns), {}
    path = Path(spec)
    kind = _kind(path)
    if kind == "npz":
        return _renamed(spec, map_unpacked(path, scratch / "unpacked.npz"), columns), {}
    from pipeline.data.tables import stream_table  # pyarrow takes a while, and npz files need none of it

    streamed = stream_table(path, columns, scratch)
    return streamed.arrays, streamed.dtypes


def _kind(path: Path) -> str:
    if not path.is_file():
        advice = "give an .npz, .parquet or .csv file, or module:function"
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; {advice}.")
    with disk_errors(path), path.open("rb") as stream:
        start = stream.read(4)
    if start in (_ZIP, _NO_ZIP_YET) or path.suffix == ".npz":
        return "npz"
    if start == _PARQUET or ".csv" in path.suffixes[-2:] or path.suffix == ".parquet":
        return "table"
    raise DataError(f"{path} is neither .npz nor .parquet nor .csv; save the rows as one of these.")


def _renamed(spec: str, tensors: Mapping[str, Array], columns: Mapping[str, Sequence[str]] | None) -> dict[str, Array]:
    if columns is None:
        return dict(tensors)
    chosen = {}
    for key, names in columns.items():
        if len(names) != 1:
            raise DataError(f"{spec}: {key!r} is to be made of {len(names)} arrays; only a table's columns are joined.")
        if names[0] not in tensors:
            raise DataError(f"{spec} holds no array {names[0]!r} for {key!r}; it holds {', '.join(sorted(tensors))}.")
        chosen[key] = tensors[names[0]]
    return chosen


def _check(place: str, tensors: Tensors) -> None:
    """Raise DataError for arrays that no stage could use; text is let through where it can only name slices."""
    check_rows(place, tensors)
    for name, array in sorted(tensors.items()):
        if array.dtype.kind != "U" or array.ndim != 1 or name in _PLAIN:
            check_finite(place, name, array)
    if not tensors.keys() - BESIDE_INPUTS:
        raise DataError(f"{place} holds {', '.join(sorted(tensors))} and no inputs; add x, or the inputs by name.")
    if GROUPS in tensors and tensors[GROUPS].size != len(tensors[GROUPS]):
        raise DataError(f"{place}: group has shape {tensors[GROUPS].shape}, but one id a row is needed.")


def _function_splits(
    spec: str, columns: Mapping[str, Sequence[str]] | None, scratch: Path
) -> dict[str, Tensors] | None:
    """Call a person's function; returns its splits, checked, or None where it returned rows not yet split."""
    _call(spec, scratch)
    found = {path.stem for path in scratch.glob("*.npz")}
    if found == {WHOLE}:
        return None
    splits = {name: _renamed(spec, map_npz(scratch / f"{name}.npz", DataError), columns) for name in SHARES}
    for name, tensors in splits.items():
        _check(f"{spec}, {name}", tensors)
    return {**splits}


def _call(spec: str, scratch: Path) -> None:
    """Run the function in its own process: it may import TensorFlow, print, or end the process."""
    log = scratch / "function.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "pipeline.data.calling", spec, str(scratch.resolve())]
        environment = for_children(given=STORE)  # the data may lie in a bucket
        done = subprocess.run(command, stdout=stream, stderr=stream, env=environment, check=False)
    failure = scratch / FAILURE_FILE
    if failure.exists():
        said = read_json(failure, DataError)
        raise DataError(str(said["message"]) if isinstance(said, dict) else f"{spec} failed.")
    if done.returncode or not list(scratch.glob("*.npz")):
        last = (log.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"])[-1]
        raise DataError(f"{spec} ended its process with code {done.returncode} ({last[:200]}); correct it.")
