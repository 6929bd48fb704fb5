"""A registry in memory, for tests and for trying things out: the same contract as the MLflow one, no library."""

from dataclasses import dataclass, field, replace

from pipeline.registry.store import BUNDLE_TAG, Run, RunDraft, Version, VersionDraft, version_of


@dataclass
class MemoryModel:
    """A registered model."""

    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)


@dataclass
class MemoryRun:
    """A run."""

    experiment: str
    draft: RunDraft
    parent: str | None
    finished: bool = False


@dataclass
class MemoryRegistry:
    """Keeps everything in dictionaries."""

    place: str = "memory"
    runs: dict[str, MemoryRun] = field(default_factory=dict)
    models: dict[str, MemoryModel] = field(default_factory=dict)

    def find_run(self, experiment: str, key: str) -> Run | None:
        """Return the run with this content key, or None."""
        for run_id, run in self.runs.items():
            if (run.experiment, run.draft.key) == (experiment, key):
                return Run(run_id, run.finished)
        return None

    def write_run(self, experiment: str, draft: RunDraft, parent: str | None = None) -> str:
        """Write a run's content and return its id."""
        found = self.find_run(experiment, draft.key)
        run_id = found.run_id if found else f"run-{len(self.runs) + 1}"
        self.runs[run_id] = MemoryRun(experiment, draft, parent)
        return run_id

    def finish_run(self, run_id: str) -> None:
        """Mark a run as complete."""
        self.runs[run_id].finished = True

    def describe_model(self, model: str, text: str) -> None:
        """Set a registered model's description."""
        self.models.setdefault(model, MemoryModel()).description = text

    def model_tags(self, model: str) -> dict[str, str]:
        """Return a registered model's tags."""
        return dict(self.models[model].tags) if model in self.models else {}

    def tag_model(self, model: str, key: str, value: str) -> None:
        """Set one tag of a registered model."""
        self.models[model].tags[key] = value

    def versions(self, model: str) -> tuple[Version, ...]:
        """Return a registered model's versions, oldest first."""
        return tuple(self.models[model].versions) if model in self.models else ()

    def add_version(self, model: str, draft: VersionDraft) -> Version:
        """Register a bundle once."""
        found = version_of(self.versions(model), draft.bundle_id)
        if found is not None:
            return found
        kept = self.models[model].versions
        version = Version(len(kept) + 1, draft.run_id, {**draft.tags, BUNDLE_TAG: draft.bundle_id})
        kept.append(version)
        return version

    def tag_version(self, model: str, number: int, key: str, value: str) -> None:
        """Set one tag of a version."""
        kept = self.models[model].versions
        kept[number - 1] = replace(kept[number - 1], tags={**kept[number - 1].tags, key: value})

    def aliases(self, model: str) -> dict[str, int]:
        """Return which version each alias names."""
        return dict(self.models[model].aliases) if model in self.models else {}

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        self.models[model].aliases[alias] = number
