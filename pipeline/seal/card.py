"""``MODEL_CARD.md``: what a person needs to know before using the model, with its figures."""

from collections import Counter

from pipeline.bundle.canaries import CanaryPlan
from pipeline.core.names import Pruning, Scheme, Variant
from pipeline.core.recipe import Metric, Recipe
from pipeline.core.records import CandidateRecord
from pipeline.score.scorecard import Scorecard, TaskScore

_SCHEMES = {
    Scheme.F32: "32-bit floating point, not quantized",
    Scheme.F16: "weights in 16-bit floating point",
    Scheme.W8: "weights in 8-bit integers, calculation in floating point",
    Scheme.W8D: "weights in 8-bit integers, activations quantized on the fly",
    Scheme.W8A8: "weights and activations in 8-bit integers, ranges fixed on calibration rows",
    Scheme.W8A16: "weights in 8-bit, activations in 16-bit integers, ranges fixed on calibration rows",
    Scheme.W4: "weights in 4-bit integers, calculation in floating point",
    Scheme.W4D: "weights in 4-bit integers, activations quantized on the fly",
    Scheme.W4B32: "weights in 4-bit integers with one scale for every 32, calculation in floating point",
}
_PRUNINGS = {
    Pruning.MAGNITUDE: "pruned by magnitude ({:.0%} asked for by its name)",
    Pruning.TWO_OF_FOUR: "pruned by magnitude, two of four neighbouring weights",
    Pruning.BLOCK: "pruned by magnitude in blocks ({:.0%} asked for by its name)",
    Pruning.STRUCTURED: "{:.0%} of the channels taken away",
}
_METRICS = {
    Metric.ACCURACY: "accuracy",
    Metric.AUC: "area under the ROC curve",
    Metric.HIT_RATE_AT_10: "hit rate at 10",
    Metric.NDCG_AT_10: "NDCG at 10",
    Metric.RMSE: "root mean squared error",
    Metric.FIDELITY: "fidelity to the float model",
}


def model_card(
    recipe: Recipe, record: CandidateRecord, card: Scorecard, locked: TaskScore, model_bytes: int, canaries: CanaryPlan
) -> str:
    """Return the model card in Markdown; it names no clock, host or role."""
    about = recipe.about
    sections = [
        f"# {about.title}\n\nModel `{recipe.model}`, candidate `{record.name}`, {model_bytes:,} bytes.",
        f"## What it is for\n\n{about.intended_use}",
        f"## Limits\n\n{about.limits}",
        f"## Data\n\n{about.data_source}",
        f"## Figures\n\n{_figures(card, locked)}",
        f"## How it was made\n\n{_making(record)}",
        f"## While it runs\n\n{_watching(canaries)}",
        f"## Before you use it\n\n{_usage(recipe)}",
        f"## Licence\n\n{about.licence}",
    ]
    return "\n\n".join(sections) + "\n"


def _figures(card: Scorecard, locked: TaskScore) -> str:
    rows = [_task_row("validation", card.task), _task_row("locked test", locked)]
    interval = f"{100 * card.task.confidence:g}%"
    table = [
        f"| rows | {_METRICS[card.task.metric]} | float model | loss | {interval} interval of the loss |",
        "|---|---|---|---|---|",
        *rows,
    ]
    size = card.size
    words = (
        f"The locked test rows took no part in choosing this candidate. A positive loss is worse than the float "
        f"model.\n\nSize: {size.bytes:,} bytes ({size.bytes_zstd:,} compressed), {size.volume_ratio:.1%} of the float "
        f"file; {size.weight_bits_mean:.1f} bits a weight; {size.sparsity_ratio:.0%} of the weights are zero. "
        f"Deployment efficiency {size.deployment_efficiency:.3f} (bytes × bits against the float file; smaller is "
        f"better). {_decisions(card)}"
    )
    return "\n".join(table) + f"\n\n{words.strip()}"


def _task_row(split: str, task: TaskScore) -> str:
    return (
        f"| {split} ({task.rows:,}) | {task.value:.4f} | {task.reference_value:.4f} | {task.loss_abs:+.4f} "
        f"| {task.loss_low:+.4f} to {task.loss_high:+.4f} |"
    )


def _decisions(card: Scorecard) -> str:
    decision = card.decision
    words = []
    if decision.flips_ratio is not None:
        words.append(f"It decides {decision.flips_ratio:.2%} of the rows otherwise than the float model.")
    if decision.calibration_error is not None and decision.calibration_error_reference is not None:
        words.append(
            f"Its probabilities are off by {decision.calibration_error:.3f} on average "
            f"(float model: {decision.calibration_error_reference:.3f})."
        )
    if decision.top10_overlap is not None:
        words.append(f"Its ten best share {decision.top10_overlap:.1%} with the float model's.")
    return " ".join(words)


def _making(record: CandidateRecord) -> str:
    quantized = record.scheme not in (Scheme.F32, Scheme.F16)
    share = f" ({record.quantized_ratio:.0%} of the float weight bytes are quantized)" if quantized else ""
    return (
        f"Variant `{record.variant}`: {_variant(record)}. Scheme `{record.scheme}`: {_scheme(record)}{share}. "
        f"Made by {record.made_by} from the float export with sha256 `{record.parent_sha256}`."
    )


def _scheme(record: CandidateRecord) -> str:
    if not record.assignment:
        return _SCHEMES[Scheme(record.scheme)]
    counts = Counter(record.assignment.values())
    return "found by search, " + ", ".join(f"{count} × {scheme}" for scheme, count in sorted(counts.items()))


def _variant(record: CandidateRecord) -> str:
    parts = Variant.parse(record.variant)
    if record.variant == "dense":
        return "the trained model as it was"
    words = [_PRUNINGS[parts.pruning].format(parts.sparsity)] if parts.pruning is not None else []
    words += [f"at most {parts.clusters} different weights a layer"] if parts.clusters else []
    words += ["with quantization in mind"] if parts.quantization_aware else []
    return f"fine-tuned: {', '.join(words)}"


def _watching(canaries: CanaryPlan) -> str:
    tried, moved, seen = (
        sum(getattr(item, name) for item in canaries.watched) for name in ("tried", "moved", "moved_seen")
    )
    words = [
        f"{len(canaries.rows)} canary rows watch {len(canaries.watched)} weight constants: of {tried} corruptions "
        f"tried {moved} changed an answer, and the canary rows showed {seen} of these."
    ]
    words += [f"Not covered: {', '.join(f'`{name}`' for name in canaries.uncovered)}."] if canaries.uncovered else []
    if canaries.tables:
        least = min(item.seen_ratio for item in canaries.tables)
        share = "every entry" if least == 1 else f"at least {least:.1%} of the entries"
        words.append(f"The golden rows look up {share} of every table.")
    return " ".join(words)


def _usage(recipe: Recipe) -> str:
    return (
        "Check that these are the bytes that were signed, with a trust policy that pins the signer's key:\n\n"
        "    hotspare verify BUNDLE --trust trust.yaml\n\n"
        f"`hotspare run` does so too, then compares the loaded model with `golden/outputs.npz` before it answers. "
        f"`io.json` describes the inputs. The warm-up and golden rows are synthetic: each column was drawn on its own "
        f"from the marginals of the calibration rows (seed {recipe.seed}); no real row is in this bundle."
    )
