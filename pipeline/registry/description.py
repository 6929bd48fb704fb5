"""What people read in MLflow's pages: short Markdown made of measured figures."""

from collections.abc import Iterable

from pipeline.bundle.attestation import Predicate
from pipeline.core.names import Role
from pipeline.core.recipe import Metric, Recipe
from pipeline.score.scorecard import Scorecard, TaskScore
from pipeline.score.selection import Selected, Verdict

_METRIC_WORDS = {
    Metric.ACCURACY: "accuracy",
    Metric.AUC: "AUC",
    Metric.HIT_RATE_AT_10: "HR@10",
    Metric.NDCG_AT_10: "NDCG@10",
    Metric.RMSE: "RMSE",
    Metric.FIDELITY: "fidelity",
}


def describe_model(recipe: Recipe, cards: Iterable[Scorecard], selected: Selected) -> str:
    """Return the registered model's description: what it is for, the latest build's pair, how to load it."""
    parts = [
        f"**{recipe.about.title}**",
        recipe.about.intended_use.strip(),
        "The latest build's pair, on validation rows (the aliases name the pair that is promoted):",
        _pair(cards, selected),
        _locked(selected),
        "Load it anywhere, without TensorFlow:",
        f'```python\nimport mlflow\n\nbackup = mlflow.pyfunc.load_model("models:/{recipe.model}@backup")\n'
        "answers = backup.predict({...})  # arrays by input name, see the schema of the version\n```",
        "On a node without MLflow: "
        f"`hotspare verify artifacts/bundles/{recipe.model}-backup --trust artifacts/trust.yaml`.",
        f"**Limits.** {recipe.about.limits.strip()}",
        f"**Data.** {recipe.about.data_source.strip()}",
        f"**Licence.** {recipe.about.licence}",
    ]
    return "\n\n".join(part for part in parts if part)


def describe_build(recipe: Recipe, cards: Iterable[Scorecard], selected: Selected) -> str:
    """Return a build run's description: the pair, what it did on the locked rows, and where to read on."""
    parts = [
        f"**{recipe.about.title}**: the runs below this one are the candidates, measured on validation rows. Chosen:",
        _pair(cards, selected),
        _locked(selected),
        *(f"**Warning.** {text}" for text in selected.warnings),
        "Among the artifacts: why each candidate won or lost (`selection.json`), the page for people "
        "(`report/index.html`), both signed bundles (`bundles/`).",
    ]
    return "\n\n".join(part for part in parts if part)


def describe_candidate(card: Scorecard, verdict: Verdict | None) -> str:
    """Return a candidate run's description: what became of it and why."""
    if verdict is None:
        return f"`{card.candidate}` was measured and not judged."
    fate = f"chosen as {verdict.role}" if verdict.role else "not chosen" if verdict.eligible else "not eligible"
    return "\n".join([f"`{card.candidate}`: {fate}.", "", *(f"- {reason}" for reason in verdict.reasons)]).strip()


def describe_version(card: Scorecard, bundle_id: str, size_bytes: int) -> str:
    """Return a version's description: the bundle and its figures."""
    return (
        f"`{card.candidate}` in a signed bundle of {size_bytes:,} bytes, id `{bundle_id}`.\n\n"
        f"On {card.task.rows:,} {card.task.split} rows: {_figures(card)}."
    )


def describe_drill(told: Predicate) -> str:
    """Return a drill run's description: the verdict, then each drill with what it missed."""
    lines = [
        f"- `{one.name}` × {one.repeats}: {'passed' if one.passed else 'failed: ' + '; '.join(one.misses)}; "
        f"{one.requests:,} requests, {one.lost} lost, {one.wrong} wrong"
        + ("" if one.rto_ms is None else f", service restored after {one.rto_ms:.4g} ms at worst")
        for one in told.drills
    ]
    verdict = "passed" if told.passed else "failed"
    return "\n".join([f"Drill of {told.ended_at} in the {told.world} world: **{verdict}**.", "", *lines])


def _pair(cards: Iterable[Scorecard], selected: Selected) -> str:
    by_name = {card.candidate: card for card in cards}
    chosen = {Role.PRIMARY: by_name.get(selected.primary), Role.BACKUP: by_name.get(selected.backup)}
    lines = [f"- **{role}** `{card.candidate}`: {_figures(card)}" for role, card in chosen.items() if card is not None]
    return "\n".join(lines)


def _figures(card: Scorecard) -> str:
    size, timings = card.size, card.timings
    return (
        f"{_score(card.task)}; {size.bytes:,} bytes, {size.volume_ratio:.0%} of the float model's "
        f"({size.bytes_zstd:,} compressed), "
        f"deployment efficiency {size.deployment_efficiency:.3g} (smaller is better); "
        f"median latency {timings.latency_p50_ms:.3g} ms, {timings.latency_ratio_p50:.2f} × the float model's"
    )


def _score(task: TaskScore) -> str:
    value = f"{_METRIC_WORDS[task.metric]} {task.value:.4f}"
    if task.loss_low == task.loss_high == 0:
        return f"{value}, the same as the float model's"
    interval = f"{100 * task.confidence:g}% interval {task.loss_low:+.4f} to {task.loss_high:+.4f}"
    return f"{value} against the float model's {task.reference_value:.4f}, loss {task.loss_abs:+.4f} ({interval})"


def _locked(selected: Selected) -> str:
    scores = [f"- **{role}** {_score(score)}" for role in Role if (score := selected.locked_test.get(role)) is not None]
    return "\n".join(["Locked test rows, which took no part in the choice:", "", *scores]) if scores else ""
