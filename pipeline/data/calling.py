"""Runs a person's own ``module:function`` for data in a process of its own: it may import what it likes, and fail."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.core.canonical import readable_json
from pipeline.core.errors import DataError, HotspareError
from pipeline.core.files import write_atomic
from pipeline.core.tensors import Array
from pipeline.data.blocks import write_rows

FAILURE_FILE = "failure.json"
WHOLE = "all"  # the name of the file that holds rows not yet split


def main(spec: str, folder: Path) -> None:
    """Call ``module:function`` and write what it returns: ``all.npz``, or one ``<split>.npz`` a split."""
    sys.excepthook = lambda kind, error, trace: _say(spec, folder, kind, error, trace)
    module, _, name = spec.partition(":")
    found = getattr(importlib.import_module(module), name)()
    if not isinstance(found, Mapping) or not found:
        raise DataError(f"{spec} returned {type(found).__name__}, not a mapping of arrays; return one.")
    nested = all(isinstance(value, Mapping) for value in found.values())
    for split, arrays in found.items() if nested else [(WHOLE, found)]:
        tensors = {str(key): _array(spec, str(key), value) for key, value in arrays.items()}
        write_rows(folder / f"{split}.npz", tensors)


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
