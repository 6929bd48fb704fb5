"""A registry in memory, for tests and for trying things out: the same contract as the MLflow one, no library."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.core.errors import Malformed
from pipeline.registry.store import BUNDLE_TAG, Run, RunDraft, Version, VersionDraft, version_of


@dataclass
class MemoryModel:
    """A registered model."""

    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    versions: list[Version] = field(default_factory=list)
    aliases: dict[str, int] = field(default_factory=dict)
    bundles: dict[int, dict[str, bytes]] = field(default_factory=dict)
    files: dict[int, Path] = field(default_factory=dict)


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

    def untag_model(self, model: str, key: str) -> None:
        """Remove one tag of a registered model."""
        self.models[model].tags.pop(key, None)

    def versions(self, model: str) -> tuple[Version, ...]:
        """Return a registered model's versions, oldest first."""
        return tuple(self.models[model].versions) if model in self.models else ()

    def add_version(self, model: str, draft: VersionDraft) -> Version:
        """Register a bundle once."""
        found = version_of(self.versions(model), draft.bundle_id)
        if found is not None:
            return found
        kept = self.models[model].versions
        version = Version(len(kept) + 1, draft.run_id, {**draft.tags, BUNDLE_TAG: draft.bundle_id}, draft.description)
        kept.append(version)
        files = [path for path in sorted(draft.bundle.rglob("*")) if path.is_file()]
        bundle = {path.relative_to(draft.bundle).as_posix(): path.read_bytes() for path in files}
        self.models[model].bundles[version.number] = bundle
        return version

    def tag_version(self, model: str, number: int, key: str, value: str) -> None:
        """Set one tag of a version."""
        kept = self.models[model].versions
        kept[number - 1] = replace(kept[number - 1], tags={**kept[number - 1].tags, key: value})

    def describe_version(self, model: str, number: int, text: str) -> None:
        """Set a version's description."""
        kept = self.models[model].versions
        kept[number - 1] = replace(kept[number - 1], description=text)

    def aliases(self, model: str) -> dict[str, int]:
        """Return which version each alias names."""
        return dict(self.models[model].aliases) if model in self.models else {}

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        self.models[model].aliases[alias] = number

    def remove_alias(self, model: str, alias: str) -> None:
        """Remove an alias."""
        self.models[model].aliases.pop(alias, None)

    def fetch_bundle(self, model: str, number: int, to: Path) -> None:
        """Write the bundle that a version holds as the folder ``to``."""
        if number not in self.models[model].bundles:
            raise Malformed(f"Version {number} of {model} holds no bundle as `hotspare register` leaves it.")
        for name, data in self.models[model].bundles[number].items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(data)

    def add_trained(self, model: str, files: Path) -> Version:
        """Register files as a version that hotspare did not make, as a training script does."""
        kept = self.models.setdefault(model, MemoryModel())
        version = Version(len(kept.versions) + 1, "", {})
        kept.versions.append(version)
        kept.files[version.number] = files
        return version

    def fetch_version(self, model: str, number: int, to: Path) -> None:
        """Write all files of a version below the folder ``to``."""
        shutil.copytree(self.models[model].files[number], to, dirs_exist_ok=True)

    def fetch_run_files(self, run_id: str, folder: str, to: Path) -> None:
        """Write a folder of a run's files as the folder ``to``."""
        found = [path for place, path in self.runs[run_id].draft.files if place == folder]
        shutil.copytree(found[0], to)
