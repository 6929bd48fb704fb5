"""``hotspare run BUNDLE``: verify, load, warm up, compare golden answers, then predict from an npz file."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.bundle.floor import floor_path, raise_floor
from pipeline.bundle.golden import Predict
from pipeline.commands.node.admission import Admitted, add_trust_arguments, admit, described, told
from pipeline.commands.node.paired import Paired
from pipeline.core.clock import utc_now
from pipeline.core.errors import DataError
from pipeline.core.files import write_atomic
from pipeline.core.tensors import Array, cast_tensors, encode_npz, map_npz
from pipeline.engines.base import TensorSpec, count_rows
from pipeline.runtime.loading import load_ready

EXAMPLE = (
    "hotspare run artifacts/bundles/credit-backup --trust artifacts/trust.yaml --input rows.npz --output answers.npz"
)

_BATCH_ROWS = 1024
_NOT_INPUTS = {"y", "group", "weight"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_trust_arguments(parser)
    parser.add_argument("--input", type=Path, required=True, help="npz with the model's inputs by name, or `x`")
    parser.add_argument("--output", type=Path, required=True, help="npz to write: the model's outputs by name")
    parser.add_argument(
        "--pair", type=Path, metavar="STANDBY", help="a standby's bundle: both in this process, LiteRT models alone"
    )


def run(args: argparse.Namespace) -> int:
    """Predict every row of the input; the answers are written all or not at all."""
    began = time.monotonic()
    admitted = admit(args, utc_now())
    paired = None if args.pair is None else Paired(args, admitted)
    answer = load_ready(admitted.bundle).run if paired is None else paired.run
    if admitted.channel is not None:
        found = admitted.channel.channel
        raise_floor(floor_path(admitted.policy.state_dir, found.model), found.floor)
    ready_ms = 1000 * (time.monotonic() - began)
    if not args.json:
        print(*told(admitted), f"ready       after {ready_ms:.0f} ms, golden answers within tolerance", sep="\n")
        sys.stdout.flush()
    specs = [TensorSpec(item.name, item.dtype, item.shape) for item in admitted.bundle.io.inputs]
    inputs = read_inputs(args.input, specs)
    outputs = predict(answer, inputs, count_rows(specs, inputs))
    write_atomic(args.output, encode_npz(outputs))
    _report(args, admitted, ready_ms, count_rows(specs, inputs), paired)
    return 0


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Map the model's inputs from an npz; what else splits hold is left alone, ``x`` stands for a single input.

    Numbers are taken as the model's type where that keeps them. Raises DataError: missing file, missing or surplus
    tensors, a dtype or shape that does not fit, no rows, NaN or infinity.
    """
    held = map_npz(path, DataError, is_checked=True)
    arrays = {name: array for name, array in held.items() if name not in _NOT_INPUTS}
    if set(arrays) == {"x"} and len(specs) == 1:
        arrays = {specs[0].name: arrays["x"]}
    arrays = cast_tensors(arrays, {spec.name: spec.dtype for spec in specs}, str(path))
    try:
        count_rows(specs, arrays)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    for name, array in arrays.items():
        _require_finite(path, name, array)
    return arrays


def _require_finite(path: Path, name: str, array: Array) -> None:
    if array.dtype.kind != "f":
        return
    bad = np.flatnonzero(~np.isfinite(array).reshape(array.shape[0], -1).all(axis=1))
    if bad.size:
        raise DataError(f"{path}: {name!r} has {bad.size} row(s) with NaN or infinity, the first is row {bad[0]}.")


def predict(answer: Predict, inputs: dict[str, Array], rows: int) -> dict[str, Array]:
    """Run all rows in batches and return the outputs by name."""
    parts = [
        answer({name: np.ascontiguousarray(array[start : start + _BATCH_ROWS]) for name, array in inputs.items()})
        for start in range(0, rows, _BATCH_ROWS)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _report(args: argparse.Namespace, admitted: Admitted, ready_ms: float, rows: int, paired: Paired | None) -> None:
    if args.json:
        done = {**described(admitted), "ready_ms": round(ready_ms, 1), "rows": rows, "output": str(args.output)}
        more = {} if paired is None else {"pair": paired.described()}
        print(json.dumps({**done, **more}, indent=2, sort_keys=True))
    else:
        more_lines = [] if paired is None else paired.told()
        print(*more_lines, f"answered    {rows:,} rows, written to {args.output}", sep="\n")
