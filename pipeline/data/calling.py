"""Runs a person's own ``module:function`` for data in a process of its own: it may import what it likes, and fail."""

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.core.canonical import readable_json
from pipeline.core.errors import DataError, HotspareError
from pipeline.core.files import write_atomic
from pipeline.core.tensors import Array
from pipeline.data.blocks import write_rows
from pipeline.data.partition import SHARES

FAILURE_FILE = "failure.json"
WHOLE = "all"  # the name of the file that holds rows not yet split


def main(spec: str, folder: Path) -> None:
    """Call ``module:function`` and write what it returns: ``all.npz``, or one ``<split>.npz`` a split."""
    sys.excepthook = lambda kind, error, trace: _say(spec, folder, kind, error, trace)
    found = _function(spec)()
    if not isinstance(found, Mapping) or not found:
        raise DataError(f"{spec} returned {type(found).__name__}, not a mapping of arrays; return one.")
    nested = all(isinstance(value, Mapping) for value in found.values())
    if nested and found.keys() != SHARES.keys():
        names = ", ".join(sorted(map(str, found)))
        raise DataError(f"{spec} returned {names}; return arrays, or all of {', '.join(SHARES)}.")
    for split, arrays in found.items() if nested else [(WHOLE, found)]:
        tensors = {str(key): _array(spec, str(key), value) for key, value in arrays.items()}
        write_rows(folder / f"{split}.npz", tensors)


def _function(spec: str) -> Callable[[], object]:
    """Find the function. The current folder comes last: a file in it is never taken for a library's module."""
    sys.path.append(str(Path.cwd()))
    module, _, name = spec.partition(":")
    found = importlib.import_module(module)
    function = getattr(found, name, None)
    if not callable(function):
        top = module.partition(".")[0]
        is_here = Path(f"{top}.py").exists() or Path(top).is_dir()
        is_hidden = is_here and Path.cwd() not in Path(found.__file__ or "").parents
        hint = f" (an installed module of that name hides yours: rename {top})" if is_hidden else ""
        raise DataError(f"{spec}: the module {module} has no function {name}{hint}; correct the name.")
    call: Callable[[], object] = function
    return call


def _array(spec: str, key: str, value: object) -> Array:
    array = np.asanyarray(value)
    if array.dtype.hasobject:
        raise DataError(f"{spec} returned {key!r} as {type(value).__name__}, not an array of numbers; return arrays.")
    if array.ndim == 0:
        raise DataError(f"{spec} returned {key!r} without a rows axis; the first axis of every array counts rows.")
    return array


def _say(spec: str, folder: Path, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Leave one sentence for the parent; the traceback goes to the log, for whoever wrote the function."""
    sys.__excepthook__(kind, error, trace)
    brief = " ".join(str(error).split())[:300]
    ours = isinstance(error, HotspareError)
    message = str(error) if ours else f"{spec} failed with {kind.__name__}: {brief}; correct it."
    write_atomic(folder / FAILURE_FILE, readable_json({"message": message}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
