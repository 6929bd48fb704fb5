"""What people read in MLflow's pages: short Markdown made of measured figures."""

from collections.abc import Iterable, Mapping, Sequence

from pipeline.bundle.attestation import Predicate
from pipeline.core.names import Role
from pipeline.core.recipe import Metric, Recipe
from pipeline.registry.store import THIS_RUN
from pipeline.score.scorecard import Scorecard, TaskScore
from pipeline.score.selection import Selected, Verdict

_ROOM = "&emsp;"
_METRIC_WORDS = {
    Metric.ACCURACY: "accuracy",
    Metric.AUC: "AUC",
    Metric.HIT_RATE_AT_10: "HR@10",
    Metric.NDCG_AT_10: "NDCG@10",
    Metric.RMSE: "RMSE",
    Metric.FIDELITY: "fidelity",
}


def describe_model(
    recipe: Recipe, cards: Iterable[Scorecard], selected: Selected, run_id: str, plots: Sequence[str] = ()
) -> str:
    """Return the registered model's description: what it is for, the latest build's pair, how to load it.

    ``plots`` are the names of pictures among the artifacts of the build's run.
    """
    parts = [
        f"**{recipe.about.title}**",
        recipe.about.intended_use.strip(),
        f"The pair of the [latest build]({_run_link(run_id)}); the aliases `primary` and `backup` name the pair "
        "that is promoted:",
        _pair(cards, selected),
        _pictures(run_id, plots),
        "Load it anywhere, without TensorFlow:",
        f'```python\nimport mlflow\n\nbackup = mlflow.pyfunc.load_model("models:/{recipe.model}@backup")\n'
        "answers = backup.predict({...})  # arrays by input name, see the schema of the version\n```",
        f"Serve it: `mlflow models serve -m models:/{recipe.model}@backup --env-manager local`. On a node without "
        f"MLflow: `hotspare verify artifacts/bundles/{recipe.model}-backup --trust artifacts/trust.yaml`.",
        f"**Limits.** {recipe.about.limits.strip()}",
        f"**Data.** {recipe.about.data_source.strip()}",
        f"**Licence.** {recipe.about.licence}",
    ]
    return "\n\n".join(part for part in parts if part)


def describe_build(recipe: Recipe, cards: Iterable[Scorecard], selected: Selected, plots: Sequence[str] = ()) -> str:
    """Return a build run's description: the pair and where to read on; it is about no other run than its own."""
    parts = [
        f"**{recipe.about.title}**: the runs below this one are the candidates. Chosen:",
        _pair(cards, selected),
        *(f"**Warning.** {text}" for text in selected.warnings),
        _pictures(THIS_RUN, plots),
        "Among the artifacts: why each candidate won or lost (`selection.json`), the page for people "
        "(`report/index.html`), both signed bundles (`bundles/`).",
    ]
    return "\n\n".join(part for part in parts if part)


def describe_candidate(card: Scorecard, verdict: Verdict | None) -> str:
    """Return a candidate run's description: what became of it and why, and its figures."""
    figures = _table((f"`{card.candidate}`",), [_figures(card)])
    if verdict is None:
        return f"`{card.candidate}` was measured and not judged.\n\n{figures}"
    fate = f"chosen as {verdict.role}" if verdict.role else "not chosen" if verdict.eligible else "not eligible"
    reasons = "\n".join(f"- {reason}" for reason in verdict.reasons)
    return "\n\n".join(part for part in (f"`{card.candidate}`: **{fate}**.", reasons, figures) if part)


def describe_version(
    card: Scorecard, size_bytes: int, run_id: str, tags: Mapping[str, str], plots: Sequence[str] = ()
) -> str:
    """Return a version's description: its figures, then where it comes from as its ``tags`` tell it."""
    parts = [
        f"**`{card.candidate}`** in a signed bundle of {size_bytes:,} bytes.",
        _table((f"`{card.candidate}`",), [_figures(card)]),
        "### Where it comes from",
        _lineage(run_id, tags),
        _pictures(run_id, plots),
    ]
    return "\n\n".join(part for part in parts if part)


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


def fitting(text: str, length_max: int) -> str:
    """Return a text that has at most so many characters (2 or more), cut after a whole line where there is one."""
    if len(text) <= length_max:
        return text
    kept = text[: length_max - 2]
    return f"{kept.rpartition(chr(10))[0] or kept}\n…"


def _pair(cards: Iterable[Scorecard], selected: Selected) -> str:
    by_name = {card.candidate: card for card in cards}
    names = {Role.PRIMARY: selected.primary, Role.BACKUP: selected.backup}
    chosen = {role: by_name[name] for role, name in names.items() if name in by_name}
    heads = [f"{role} `{card.candidate}`" for role, card in chosen.items()]
    return _table(heads, [_figures(card, selected.locked_test.get(role)) for role, card in chosen.items()])


def _table(heads: Sequence[str], columns: Sequence[Mapping[str, str]]) -> str:
    """Return a table with a row for each figure that any column has."""
    names = dict.fromkeys(name for column in columns for name in column)
    # MLflow's pages draw tables without room between columns.
    rows = [[name, *(_ROOM + column.get(name, "") for column in columns)] for name in names]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (["", *heads], ["---"] * (len(heads) + 1), *rows))


def _figures(card: Scorecard, locked: TaskScore | None = None) -> dict[str, str]:
    size, timings = card.size, card.timings
    return {
        **_score(card.task),
        **(_score(locked) if locked else {}),
        "file": f"{size.bytes:,} bytes, {size.volume_ratio:.0%} of the float model's",
        "compressed": f"{size.bytes_zstd:,} bytes",
        "deployment efficiency (smaller is better)": f"{size.deployment_efficiency:.3g}",
        "median latency": f"{timings.latency_p50_ms:.3g} ms, {timings.latency_ratio_p50:.2f} × the float model's",
        "memory": f"{timings.rss_mb:.3g} MB",
    }


def _score(task: TaskScore) -> dict[str, str]:
    """Return a score and its loss; a name says on which rows, so that no two are taken for one."""
    rows = "locked test rows" if task.split == "test" else f"{task.split} rows"
    value = f"{task.value:.4f}, the float model's {task.reference_value:.4f}"
    loss = (
        f"{task.loss_abs:+z.4f} ({100 * task.confidence:g}% interval {task.loss_low:+z.4f} to {task.loss_high:+z.4f})"
    )
    is_same = task.loss_low == task.loss_high == 0
    return {
        f"{_METRIC_WORDS[task.metric]}, {rows}": f"{task.value:.4f}" if is_same else value,
        f"loss, {rows}": "none: answers as the float model does" if is_same else loss,
    }


def _lineage(run_id: str, tags: Mapping[str, str]) -> str:
    known = {
        "bundle": _code(tags.get("bundle_id")),
        "selected as": tags.get("selected_as"),
        "paired with": _code(tags.get("paired_with")),
        "build": f"[{run_id}]({_run_link(run_id)})",
        "candidate's run": _link_to_run(tags.get("candidate_run_id")),
        "made from": _of(_code(tags.get("parent_name")), tags.get("parent_sha256")),
        "recipe": _code(tags.get("recipe_build_sha256")),
        "dvc.lock": _code(tags.get("dvc_lock_sha256")),
        "git commit": _code(tags.get("git_commit")),
        "drill": _drill(tags),
    }
    return _table(("",), [{name: value for name, value in known.items() if value}])


def _drill(tags: Mapping[str, str]) -> str:
    if "drill_verdict" not in tags:
        return "none of this pair yet"
    told = f"**{tags['drill_verdict']}** at {tags.get('drill_at')} in the {tags.get('drill_world')} world"
    restored = f", service restored in {tags.get('drill_rto_ms_p95')} ms (95th percentile)"
    return f"{told}{restored}: {_link_to_run(tags.get('drill_run_id'))}"


def _code(text: str | None) -> str | None:
    return f"`{text}`" if text else None


def _of(name: str | None, digest: str | None) -> str | None:
    return f"{name}, SHA-256 `{digest}`" if name and digest else None


def _link_to_run(run_id: str | None) -> str | None:
    return f"[{run_id}]({_run_link(run_id)})" if run_id else None


def _run_link(run_id: str) -> str:
    return f"#/runs/{run_id}"  # the pages of every MLflow server, whatever its address


def _pictures(run_id: str, plots: Sequence[str]) -> str:
    return "\n\n".join(f"![{plot}](get-artifact?path=plots%2F{plot}&run_uuid={run_id})" for plot in plots)
