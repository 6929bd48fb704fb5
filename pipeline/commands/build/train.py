"""``hotspare train MODEL``: fetch an example's data by digest, prepare its splits, train it in its own process."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.commands.build.console import show_json, show_table
from pipeline.core.canonical import readable_json
from pipeline.core.errors import InternalError, UsageError
from pipeline.core.files import read_bytes, replacing_dir, write_atomic
from pipeline.core.layout import trained_dir
from pipeline.core.recipe import Metric
from pipeline.core.schema import plain
from pipeline.core.tensors import Array, decode_npz, encode_npz
from pipeline.examples.catalog import EXAMPLES
from pipeline.examples.download import downloads_dir, fetch
from pipeline.examples.job import MODEL_FILE, SCORES_FILE, Job
from pipeline.examples.prepared import Example, Prepared
from pipeline.examples.process import check_training_packages, run_training
from pipeline.examples.tables import Preparation
from pipeline.score.metrics import task_metric

EXAMPLE = "hotspare train credit"


@dataclass(frozen=True)
class Training:
    """What was trained (``training.json``): figures by split and metric, and how raw values became features."""

    model: str
    data: str
    seed: int
    rows: dict[str, int]
    figures: dict[str, dict[str, float]]
    preparation: Preparation | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help=f"the example to train: {', '.join(EXAMPLES)}")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Train one example into ``artifacts/trained/<model>/``."""
    if args.model not in EXAMPLES:
        raise UsageError(
            f"There is no example {args.model!r}; the examples are {', '.join(EXAMPLES)}. "
            "Your own model needs no training here: name its file in the recipe's source.path."
        )
    training = _train(args.model)
    if args.json:
        show_json({"model": training.model, "rows": training.rows, "figures": training.figures})
    else:
        _show(training)
    return 0


def _train(model: str) -> Training:
    check_training_packages()
    example = EXAMPLES[model]
    prepared = example.prepare(fetch(example.source, downloads_dir()), example.seed)
    with replacing_dir(trained_dir(model)) as folder, tempfile.TemporaryDirectory(prefix="hotspare-train-") as work:
        for name, tensors in prepared.splits.items():
            write_atomic(folder / f"{name}.npz", encode_npz(tensors))
        # The process writes elsewhere: should it outlive a killed parent, it cannot touch the next run's folder.
        run_training(Job(model, example.seed, str(folder.absolute()), work, sys.stderr.isatty()), Path(work))
        write_atomic(folder / MODEL_FILE, read_bytes(Path(work) / MODEL_FILE))
        scores = decode_npz(read_bytes(Path(work) / SCORES_FILE), SCORES_FILE, InternalError)
        training = _training(model, example, prepared, scores)
        write_atomic(folder / "training.json", readable_json(plain(training)))
    return training


def _training(model: str, example: Example, prepared: Prepared, scores: Mapping[str, Array]) -> Training:
    rows = {name: len(tensors["y"]) for name, tensors in prepared.splits.items()}
    figures = {name: _figures(prepared.splits[name], scores[name]) for name in scores}
    return Training(model, example.source.requirement, example.seed, rows, figures, prepared.preparation)


def _figures(split: Mapping[str, Array], scores: Array) -> dict[str, float]:
    groups = split.get("group")
    metrics = (Metric.AUC,) if groups is None else (Metric.HIT_RATE_AT_10, Metric.NDCG_AT_10)
    return {str(metric): task_metric(metric, scores, split["y"], groups) for metric in metrics}


def _show(training: Training) -> None:
    show_table(
        f"{training.model}: {training.rows['train']} training rows",
        ["split", "rows", "metric", "value"],
        [
            [split, str(training.rows[split]), metric, f"{value:.4f}"]
            for split, values in training.figures.items()
            for metric, value in values.items()
        ],
    )
