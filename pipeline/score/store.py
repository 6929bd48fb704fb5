"""The scorecards' folder: one JSON a candidate, what was refused, a table for plots, main figures for metrics."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.canonical import readable_json
from pipeline.core.files import replacing_dir, write_atomic
from pipeline.core.layout import ARTIFACTS, scorecards_dir
from pipeline.core.records import read_record, write_record
from pipeline.score.diagnosis import Diagnosis, diagnosis_file
from pipeline.score.scorecard import METRICS_FILE, SCORED_FILE, TABLE_FILE, Scorecard, Scored, card_file


def write_scored(folder: Path, scored: Scored, cards: Sequence[Scorecard], diagnoses: Sequence[Diagnosis] = ()) -> None:
    """Replace the folder with these scorecards and diagnoses, all or nothing; raises OutOfSpace or FileAccess."""
    with replacing_dir(folder) as aside:
        write_record(aside / SCORED_FILE, scored)
        for card in cards:
            write_record(aside / card_file(card.candidate), card)
        for diagnosis in diagnoses:
            write_record(aside / diagnosis_file(diagnosis.candidate), diagnosis)
        write_atomic(aside / TABLE_FILE, table(cards).encode("utf-8"))
        write_atomic(aside / METRICS_FILE, readable_json({card.candidate: main_figures(card) for card in cards}))


def read_scored(model: str, root: Path = ARTIFACTS) -> tuple[Scored, tuple[Scorecard, ...]]:
    """Read what ``hotspare score`` wrote for a model; raises MissingStageError naming the stage when it did not."""
    folder = scorecards_dir(model, root)
    stage = f"score {model}"
    scored = read_record(Scored, folder / SCORED_FILE, stage)
    return scored, tuple(read_record(Scorecard, folder / card_file(name), stage) for name in scored.candidates)


def read_diagnoses(model: str, scored: Scored, root: Path = ARTIFACTS) -> dict[str, Diagnosis]:
    """Read the diagnoses that are there, by candidate; raises MissingStageError for one of another version."""
    paths = {name: scorecards_dir(model, root) / diagnosis_file(name) for name in scored.candidates}
    return {name: read_record(Diagnosis, path, f"score {model}") for name, path in paths.items() if path.is_file()}


def main_figures(card: Scorecard) -> dict[str, float]:
    """Return the few figures that ``dvc metrics show`` and MLflow list, by name with its unit."""
    return {
        card.task.metric.value: card.task.value,
        "loss_abs": card.task.loss_abs,
        "loss_high": card.task.loss_high,
        "bytes": card.size.bytes,
        "bytes_zstd": card.size.bytes_zstd,
        "deployment_efficiency": card.size.deployment_efficiency,
        "latency_ratio_p50": card.timings.latency_ratio_p50,
        "rss_mb": card.timings.rss_mb,
    }


def table(cards: Sequence[Scorecard]) -> str:
    """Return one CSV row a candidate, for plots."""
    stream = io.StringIO()
    rows = [_row(card) for card in cards]
    writer = csv.DictWriter(stream, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _row(card: Scorecard) -> dict[str, object]:
    return {
        "candidate": card.candidate,
        "variant": card.variant,
        "scheme": card.scheme,
        "format": card.format.value,
        "value": card.task.value,
        "loss_abs": card.task.loss_abs,
        "loss_low": card.task.loss_low,
        "loss_high": card.task.loss_high,
        "bytes": card.size.bytes,
        "bytes_zstd": card.size.bytes_zstd,
        "weight_bits_mean": card.size.weight_bits_mean,
        "sparsity_ratio": card.size.sparsity_ratio,
        "deployment_efficiency": card.size.deployment_efficiency,
        "fidelity": card.fidelity.value,
        "load_ms": card.timings.load_ms,
        "latency_p50_ms": card.timings.latency_p50_ms,
        "latency_p95_ms": card.timings.latency_p95_ms,
        "latency_ratio_p50": card.timings.latency_ratio_p50,
        "rss_mb": card.timings.rss_mb,
    }
