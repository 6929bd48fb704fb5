"""``hotspare inspect BUNDLE``: what a bundle says of itself, without trusting it."""

import argparse
import json
from pathlib import Path
from typing import Any

from pipeline.bundle.io_contract import IoContract, TensorContract
from pipeline.bundle.manifest import CARD_FILE, IO_FILE, MANIFEST_FILE, SCORECARD_FILE, Manifest
from pipeline.bundle.reading import PAYLOAD, read_small
from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.errors import Malformed
from pipeline.core.printable import printable, printable_lines
from pipeline.core.schema import plain

EXAMPLE = "hotspare inspect artifacts/bundles/credit-backup"

_NOTHING_VERIFIED = "Nothing was verified: this is only what the files say. `hotspare verify` checks them."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", type=Path, help="a bundle's folder")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Print the manifest, tensors, scorecard and model card of a bundle."""
    payload = args.bundle / PAYLOAD
    manifest = fit(Manifest, _json(payload, MANIFEST_FILE), MANIFEST_FILE)
    io = fit(IoContract, _json(payload, IO_FILE), IO_FILE)
    scorecard = _json(payload, SCORECARD_FILE)
    if not isinstance(scorecard, dict):
        raise Malformed(f"{payload / SCORECARD_FILE} is not a scorecard; fetch the bundle again.")
    card = read_small(payload / CARD_FILE).decode("utf-8", "replace")
    if args.json:
        told = {"verified": False, "manifest": plain(manifest), "io": plain(io), "scorecard": scorecard, "card": card}
        print(json.dumps(told, indent=2, sort_keys=True))
    else:
        lines = [printable(line) for line in _lines(manifest, io, scorecard)]
        print("\n".join(lines), printable_lines(card), _NOTHING_VERIFIED, sep="\n\n")
    return 0


def _json(payload: Path, name: str) -> object:
    return parse_strict(read_small(payload / name), str(payload / name))


def _lines(manifest: Manifest, io: IoContract, scorecard: dict[str, Any]) -> list[str]:
    targets = ", ".join(f"{target.arch} with {target.min_ram_mb} MB" for target in manifest.targets)
    runtime = manifest.runtime
    return [
        _NOTHING_VERIFIED,
        "",
        f"model       {manifest.model} {manifest.candidate} ({manifest.licence})",
        f"runs on     {runtime.name} {runtime.version_range}, {runtime.threads} thread(s); {targets}",
        *(f"input       {_shown(tensor)}" for tensor in io.inputs),
        *(f"output      {_shown(tensor)}" for tensor in io.outputs),
        *(f"            {rule.name} in [{rule.minimum:g}, {rule.maximum:g}], {rule.source}" for rule in io.rules),
        *_figures("scorecard", scorecard),
        f"made from   {manifest.parent.name}, sha256 {manifest.parent.sha256}",
    ]


def _shown(tensor: TensorContract) -> str:
    axes = ", ".join("n" if axis == -1 else str(axis) for axis in tensor.shape)
    return f"{tensor.name}: {tensor.dtype} ({axes})"


def _figures(label: str, values: dict[str, Any]) -> list[str]:
    """Return one line a figure, with its path: whatever version of a scorecard this is."""
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += _figures(f"{label}.{name}", value)
        else:
            lines.append(f"{label}.{name} = {value}")
    return lines
