"""What a build leaves in the registry, as values: its run, a run for every candidate, a version for every bundle."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.bundle.attestation import DrillStatement
from pipeline.bundle.channel import BundleRef
from pipeline.bundle.manifest import Parent
from pipeline.core.canonical import canonical_json, sha256_file, sha256_hex
from pipeline.core.names import Role
from pipeline.core.recipe import Recipe
from pipeline.core.schema import plain
from pipeline.engines.base import TensorSpec
from pipeline.registry.description import describe_build, describe_candidate, describe_drill, describe_version
from pipeline.registry.gates import Facts, Rehearsal, Standing
from pipeline.registry.pair import Pair
from pipeline.registry.registered import standing_tags
from pipeline.registry.store import BUNDLE_TAG, RunDraft, VersionDraft
from pipeline.score.scorecard import Scorecard, card_file
from pipeline.score.selection import SELECTION_FILE, Selected
from pipeline.score.store import main_figures

PLOT_FILES = ("loss.svg", "latency.svg")
"""What ``report`` draws beside its page, in the order in which people look at them."""


@dataclass(frozen=True)
class Sealed:
    """A bundle that was verified, and the figures of the candidate in it."""

    role: Role
    card: Scorecard
    bundle_id: str
    bundle: Path
    size_bytes: int
    io_contract_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parent: Parent
    key_hint: str


@dataclass(frozen=True)
class Drill:
    """The latest drill of a model: its verified attestation, its figures and its files."""

    statement: DrillStatement
    attestation_sha256: str
    folder: Path
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def rehearsal(self) -> Rehearsal:
        """Return what the gates of promotion look at."""
        told = self.statement.predicate
        pair = Pair(self.statement.bundle_id(Role.PRIMARY), self.statement.bundle_id(Role.BACKUP))
        scripts = {one.name: one.script_sha256 for one in told.drills}
        return Rehearsal(pair, told.world == "live", told.passed, self.statement.ended_at, told.rto_ms_p95, scripts)

    def tags(self) -> dict[str, str]:
        """Return what a version that was drilled says of it."""
        told = self.statement.predicate
        tags = {
            "drill_verdict": "passed" if told.passed else "failed",
            "drill_world": told.world,
            "drill_at": told.ended_at,
            "drill_attestation_sha256": self.attestation_sha256,
        }
        # Always set: a figure of an older drill must not stand beside the verdict of this one.
        return {**tags, "drill_rto_ms_p95": "none" if told.rto_ms_p95 is None else f"{told.rto_ms_p95:.4g}"}


@dataclass(frozen=True)
class Lineage:
    """Where a build came from; it does not make two builds different."""

    git_commit: str | None
    dvc_lock_sha256: str | None
    experiment: str | None
    builder: str | None = None
    """Who built it, as they say; see ``loading.acting_person``."""

    def tags(self) -> dict[str, str]:
        """Return what is known, as tags."""
        return dict(plain(self))


@dataclass(frozen=True)
class Build:
    """One model's latest run through the stages."""

    recipe: Recipe
    cards: tuple[Scorecard, ...]
    selected: Selected
    primary: Sealed
    backup: Sealed
    scorecards: Path
    selection: Path
    report: Path | None
    trust: Path
    lineage: Lineage
    loaded_at: datetime
    drill: Drill | None = None

    @property
    def plots(self) -> tuple[str, ...]:
        """Return the names of the report's pictures that are there."""
        kept = () if self.report is None else tuple(self.report.parent / name for name in PLOT_FILES)
        return tuple(path.name for path in kept if path.is_file())

    @property
    def model(self) -> str:
        """Return the model's name."""
        return self.recipe.model

    @property
    def sealed(self) -> tuple[Sealed, Sealed]:
        """Return both bundles, the primary first."""
        return self.primary, self.backup

    @property
    def refs(self) -> dict[Role, BundleRef]:
        """Return them as a channel names them."""
        return {sealed.role: BundleRef(sealed.bundle_id, sealed.size_bytes) for sealed in self.sealed}

    def facts(self, scripts: Mapping[str, str] | None = None) -> Facts:
        """Return what the gates of promotion look at; ``scripts`` are the digests of the recipe's drills as of now."""
        return Facts(
            self.model,
            self.recipe.budgets.loss_max_abs,
            self.recipe.select.backup.diverse,
            _standing(self.primary),
            _standing(self.backup),
            self.loaded_at,
            self.drill.rehearsal if self.drill else None,
            self.recipe.drills,
            scripts or {},
        )

    @property
    def own_drill(self) -> Drill | None:
        """Return the drill if it was held on these very bundles."""
        return self.drill if self.drill and self.drill.rehearsal.pair == self.facts().pair else None


def build_draft(build: Build) -> RunDraft:
    """Return the run of the whole build; its key covers everything that is logged except the lineage."""
    files = tuple(_build_files(build))
    params = _flat({key: value for key, value in plain(build.recipe).items() if key != "about"})
    metrics = {
        f"{sealed.role}.{key}": value for sealed in build.sealed for key, value in main_figures(sealed.card).items()
    }
    metrics |= {f"{role}.test.{key}": value for role, key, value in _test_figures(build.selected)}
    description = describe_build(build.recipe, build.cards, build.selected, build.plots)
    content = {
        "params": params,
        "metrics": metrics,
        "description": description,
        "cards": [plain(card) for card in build.cards],
        "bundles": [sealed.bundle_id for sealed in build.sealed],
        "files": {path.name: sha256_file(path) for _, path in files if path.is_file()},
    }
    key = sha256_hex(canonical_json(content))
    tags = {
        "kind": "build",
        "model": build.model,
        "recipe_build_sha256": build.recipe.build_sha256(),
        **{f"{sealed.role}": sealed.card.candidate for sealed in build.sealed},
        **{f"{sealed.role}_bundle_id": sealed.bundle_id for sealed in build.sealed},
        **build.lineage.tags(),
    }
    return RunDraft(key, f"build-{key[:8]}", description, tags, params, metrics, files)


def candidate_key(build_key: str, candidate: str) -> str:
    """Return the key of a candidate's run."""
    return sha256_hex(canonical_json({"build": build_key, "candidate": candidate}))


def candidate_drafts(build: Build, build_key: str) -> Iterator[RunDraft]:
    """Yield a run for every candidate of a build."""
    roles = {sealed.card.candidate: str(sealed.role) for sealed in build.sealed}
    reasons = {verdict.candidate: verdict for verdict in build.selected.verdicts}
    for card in build.cards:
        role = roles.get(card.candidate)
        verdict = reasons.get(card.candidate)
        tags = {
            "kind": "candidate",
            "model": card.model,
            "candidate": card.candidate,
            "candidate_sha256": card.sha256,
            "eligible": str(verdict.eligible).lower() if verdict else "unknown",
            **({"role": role} if role else {}),
            **build.lineage.tags(),
        }
        tuning = _flat(plain(build.recipe.variants[card.variant])) if card.variant in build.recipe.variants else {}
        params = {
            "model": card.model,
            "variant": card.variant,
            "scheme": str(card.scheme),
            "format": str(card.format),
            "made_by": card.made_by,
            "seed": str(build.recipe.seed),
            **({} if card.variant == "dense" else {f"fine_tuning.{key}": value for key, value in tuning.items()}),
        }
        key = candidate_key(build_key, card.candidate)
        files = (("", build.scorecards / card_file(card.candidate)),)
        yield RunDraft(key, card.candidate, describe_candidate(card, verdict), tags, params, _metrics(card), files)


def drill_draft(build: Build, drill: Drill) -> RunDraft:
    """Return the run of a drill: its report, figures and attestation; its key is the attestation's digest."""
    told = drill.statement.predicate
    tags = {
        "kind": "drill",
        "model": build.model,
        **drill.tags(),
        **{f"{sealed.role}_bundle_id": sealed.bundle_id for sealed in build.sealed},
        **build.lineage.tags(),
    }
    params = {
        "drills": ", ".join(one.name for one in told.drills),
        **{f"machine.{k}": v for k, v in told.machine.items()},
    }
    key = sha256_hex(canonical_json({"drill": drill.attestation_sha256}))
    name = f"drill-{key[:8]}"
    return RunDraft(key, name, describe_drill(told), tags, params, drill.metrics, (("drill", drill.folder),))


def version_draft(build: Build, sealed: Sealed, run_id: str, candidate_run_id: str = "") -> VersionDraft:
    """Return the version that holds one bundle, with its lineage: the runs of its build and of its candidate."""
    card = sealed.card
    tags = {
        "candidate": card.candidate,
        "candidate_sha256": card.sha256,
        "selected_as": str(sealed.role),
        "run_id": run_id,
        **({"candidate_run_id": candidate_run_id} if candidate_run_id else {}),
        "parent_name": sealed.parent.name,
        "parent_sha256": sealed.parent.sha256,
        "recipe_build_sha256": build.recipe.build_sha256(),
        "format": str(card.format),
        **{key: f"{value:.9g}" for key, value in main_figures(card).items()},
        **build.lineage.tags(),
        **standing_tags(build.facts(), sealed.role),
    }
    return VersionDraft(
        bundle_id=sealed.bundle_id,
        name=card.candidate.replace(".", "-"),
        run_id=run_id,
        description=version_text(build, sealed, run_id, {**tags, BUNDLE_TAG: sealed.bundle_id}),
        tags=tags,
        bundle=sealed.bundle,
        trust=build.trust,
        inputs=sealed.inputs,
        outputs=sealed.outputs,
    )


def version_text(build: Build, sealed: Sealed, run_id: str, tags: Mapping[str, str]) -> str:
    """Return a version's description; where it comes from is told as its tags tell it."""
    return describe_version(sealed.card, sealed.size_bytes, run_id, tags, build.plots)


def _standing(sealed: Sealed) -> Standing:
    card = sealed.card
    return Standing(
        sealed.role,
        sealed.bundle_id,
        card.candidate,
        card.scheme,
        card.format,
        sealed.io_contract_sha256,
        card.task.loss_high,
        card.timings.latency_ratio_p50,
        sealed.key_hint,
    )


def _build_files(build: Build) -> Iterator[tuple[str, Path]]:
    yield "", build.selection / SELECTION_FILE
    if build.report is not None:
        yield "report", build.report
        yield from (("plots", build.report.parent / name) for name in build.plots)
    for sealed in build.sealed:
        yield f"bundles/{sealed.role}", sealed.bundle


def _metrics(card: Scorecard) -> dict[str, float]:
    """Return a card's figures by the names that ``dvc metrics`` and reports use, too."""
    task = {key: value for key, value in plain(card.task).items() if key.startswith("loss_")}
    decision = {key: value for key, value in plain(card.decision).items() if value is not None}
    timings = {key: value for key, value in plain(card.timings).items() if key not in ("rows", "threads")}
    figures = {**plain(card.size), **task, **decision, **timings}
    figures[str(card.task.metric)] = card.task.value
    figures[card.fidelity.kind] = card.fidelity.value
    return {key: float(value) for key, value in figures.items()}


def _test_figures(selected: Selected) -> Iterator[tuple[Role, str, float]]:
    for role, score in selected.locked_test.items():
        yield role, str(score.metric), float(score.value)
        yield role, "loss_abs", float(score.loss_abs)
        yield role, "loss_high", float(score.loss_high)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        return {prefix: text}
    pairs = (_flat(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items())
    return {key: text for part in pairs for key, text in part.items()}
