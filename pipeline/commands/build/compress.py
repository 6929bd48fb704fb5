"""``hotspare compress MODEL``: the whole build in one shot, without dvc, MLflow or a project."""

import argparse
import math
from pathlib import Path

from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.one_shot import Compressed, compress
from pipeline.commands.build.quantize import add_backend_arguments
from pipeline.commands.build.wish import Wish
from pipeline.core.errors import UsageError
from pipeline.core.names import Role
from pipeline.core.recipe import Diversity, Metric, Minimize

EXAMPLE = "hotspare compress model.keras --data rows.npz --metric accuracy --max-loss 0.01 --out compressed"

_EPOCHS = 4
_SECONDS = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="trained .keras .h5 .tflite .onnx or SavedModel")
    parser.add_argument(
        "--data", required=True, help="rows: .npz (x, y or inputs by name), .parquet, .csv, module:function"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write, all or nothing")
    parser.add_argument(
        "--metric", choices=[item.value for item in Metric], help="task metric; without labels in the data: fidelity"
    )
    parser.add_argument(
        "--max-loss", type=float, default=0.01, help="loss of the metric that you accept (default 0.01)"
    )
    parser.add_argument("--confidence", type=float, default=0.9, help="level of the loss's interval (default 0.9)")
    parser.add_argument("--minimize", choices=[item.value for item in Minimize], default="bytes", help="default bytes")
    parser.add_argument("--seconds", type=float, default=_SECONDS, help=f"time for the search (default {_SECONDS:g})")
    parser.add_argument("--variants", help="e.g. dense,p50s,c16 (default: dense, and p50s of a Keras model)")
    parser.add_argument("--epochs", type=int, default=_EPOCHS, help=f"of each fine-tuning (default {_EPOCHS})")
    parser.add_argument("--formats", help="tflite,onnx (default: all that the model can be exported to)")
    parser.add_argument("--diverse", help="scheme, engine or both: in what the backup must differ from the primary")
    parser.add_argument("--columns", metavar="MAP", help="of a table: 'x=age,income;y=default'")
    parser.add_argument("--output", help="which output is judged, where the model has several")
    parser.add_argument("--slices", help="arrays of the data that name groups of rows, e.g. region,age_band")
    parser.add_argument("--threshold", type=float, default=0.5, help="of a binary decision (default 0.5)")
    parser.add_argument("--name", help="the model's name (default: from its file)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--key", type=Path, metavar="DIR", help="folder of signing.pem: also write signed bundles")
    add_backend_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print candidates, scorecards and selection as JSON")


def run(args: argparse.Namespace) -> int:
    """Compress the model and show what was chosen."""
    _require_numbers(args)
    done = compress(_wish(args))
    if args.json:
        show_json(done.document)
    else:
        _show(done)
    return 0


def _wish(args: argparse.Namespace) -> Wish:
    return Wish(
        model=args.model,
        data=args.data,
        out=args.out,
        metric=Metric(args.metric) if args.metric else None,
        loss_max_abs=args.max_loss,
        confidence=args.confidence,
        minimize=Minimize(args.minimize),
        seconds_max=args.seconds,
        variants=_list(args.variants),
        epochs=args.epochs,
        formats=_list(args.formats),
        diverse=tuple(_diversity(item) for item in _list(args.diverse)),
        columns=_columns(args.columns) if args.columns else None,
        output=args.output,
        slices=_list(args.slices),
        threshold=args.threshold,
        name=args.name,
        seed=args.seed,
        key=args.key,
        backend=args.backend,
        address=args.address,
        workers=args.workers,
    )


def _require_numbers(args: argparse.Namespace) -> None:
    """Raise UsageError for numbers that no stage could use and no recipe's own rules would catch in time."""
    for name in ("max_loss", "confidence", "seconds", "threshold"):
        if not math.isfinite(getattr(args, name)):
            raise UsageError(f"--{name.replace('_', '-')} {getattr(args, name)} is no finite number; correct it.")
    for name, least in (("workers", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f"--{name} {value} cannot be used; give {least} or more.")


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def _diversity(text: str) -> Diversity:
    if text not in set(Diversity):
        raise UsageError(f"--diverse: {text!r} is none of {', '.join(Diversity)}.")
    return Diversity(text)


def _columns(text: str) -> dict[str, tuple[str, ...]]:
    """Read ``x=age,income;y=default``; raises UsageError."""
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    columns = {name.strip(): _list(names) for name, _, names in pairs}
    if not columns or not all(columns.values()) or len(columns) != len(pairs):
        raise UsageError(f"--columns: {text!r} is not a map such as 'x=age,income;y=default'.")
    return columns


def _show(done: Compressed) -> None:
    outcome = done.outcome
    cards, selected = outcome.scores.cards, outcome.selected
    roles = {selected.primary: Role.PRIMARY.value, selected.backup: Role.BACKUP.value}
    headers = ["candidate", "role", outcome.recipe.metric.value, "loss up to", "bytes", "of float", "x float's time"]
    rows = [
        (
            card.candidate,
            roles.get(card.candidate, ""),
            f"{card.task.value:.4f}",
            f"{card.task.loss_high:+.4f}",
            f"{card.size.bytes:,}",
            f"{card.size.volume_ratio:.1%}",
            f"{card.timings.latency_ratio_p50:.2f}",
        )
        for card in sorted(cards, key=lambda card: card.size.bytes)
    ]
    show_table(f"{outcome.wish.model} ({outcome.kind}): {len(rows)} candidates", headers, rows)
    for item in outcome.refused:
        print(f"left out {item.candidate}: {item.reason}")
    for line in (*outcome.notes, *done.why, *(f"warning: {text}" for text in selected.warnings)):
        print(line)
    for role in Role:
        print(f"{role.value:<8} {done.document['selection'][role.value]['path']}")
    print(f"report   {done.document['report']}")
