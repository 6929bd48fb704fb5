"""The port to a model registry: runs, versions and aliases, each found again by what it holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.engines.base import TensorSpec

KEY_TAG = "hotspare.key"
BUNDLE_TAG = "bundle_id"
# In the description of a run that is still to be written, stands where its own id belongs.
THIS_RUN = "{this run}"


@dataclass(frozen=True)
class Run:
    """One logged run; a run that a killed process left behind is not ``finished``."""

    run_id: str
    finished: bool


@dataclass(frozen=True)
class RunDraft:
    """What a run is to hold; ``key`` is the digest of its content, by which it is found again.

    ``description`` says ``THIS_RUN`` where the run's own id belongs.
    """

    key: str
    name: str
    description: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: tuple[tuple[str, Path], ...] = ()
    """(folder in the run, file or folder on disk)"""


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    number: int
    run_id: str
    tags: Mapping[str, str]
    description: str = ""

    @property
    def bundle_id(self) -> str:
        """Return the id of the bundle that this version holds; empty for a version that hotspare did not make."""
        return self.tags.get(BUNDLE_TAG, "")


@dataclass(frozen=True)
class VersionDraft:
    """A bundle to register as a version that ``mlflow.pyfunc`` can load."""

    bundle_id: str
    name: str
    run_id: str
    description: str
    tags: Mapping[str, str]
    bundle: Path
    trust: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Registry(Protocol):
    """A model registry. Every method raises Unreachable when it does not answer or refuses.

    ``experiment`` and ``model`` are a recipe's model name.
    """

    @property
    def place(self) -> str:
        """Return where it is, without credentials, for people."""
        ...

    def find_run(self, experiment: str, key: str) -> Run | None:
        """Return the run with this content key, or None."""
        ...

    def write_run(self, experiment: str, draft: RunDraft, parent: str | None = None) -> str:
        """Write a run's content and return its id; a run with the same key is written again, not twice.

        The run stays unfinished, so that a killed process is noticed.
        """
        ...

    def finish_run(self, run_id: str) -> None:
        """Mark a run as complete."""
        ...

    def describe_model(self, model: str, text: str) -> None:
        """Set a registered model's Markdown description, creating the model when it is new."""
        ...

    def model_tags(self, model: str) -> dict[str, str]:
        """Return a registered model's tags; none when there is no such model."""
        ...

    def tag_model(self, model: str, key: str, value: str) -> None:
        """Set one tag of a registered model."""
        ...

    def untag_model(self, model: str, key: str) -> None:
        """Remove one tag of a registered model; one that is not there is no error."""
        ...

    def versions(self, model: str) -> tuple[Version, ...]:
        """Return a registered model's versions, oldest first; none when there is no such model."""
        ...

    def add_version(self, model: str, draft: VersionDraft) -> Version:
        """Register a bundle; when somebody else registered it meanwhile, theirs is returned and ours is gone."""
        ...

    def tag_version(self, model: str, number: int, key: str, value: str) -> None:
        """Set one tag of a version."""
        ...

    def describe_version(self, model: str, number: int, text: str) -> None:
        """Set a version's Markdown description."""
        ...

    def aliases(self, model: str) -> dict[str, int]:
        """Return which version each alias names; none when there is no such model."""
        ...

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        ...

    def remove_alias(self, model: str, alias: str) -> None:
        """Remove an alias; one that is not there is no error."""
        ...

    def fetch_bundle(self, model: str, number: int, to: Path) -> None:
        """Write the bundle that a version holds as the folder ``to``, which must not exist; it is not verified."""
        ...

    def fetch_version(self, model: str, number: int, to: Path) -> None:
        """Write all files of a version, whoever made it, below the folder ``to``; nothing of them is verified."""
        ...

    def fetch_run_files(self, run_id: str, folder: str, to: Path) -> None:
        """Write a folder of a run's files as the folder ``to``, which must not exist; nothing of them is verified."""
        ...


def version_of(versions: tuple[Version, ...], bundle_id: str) -> Version | None:
    """Return the oldest version that holds a bundle, or None; without an id there is none."""
    return next((item for item in versions if bundle_id and item.bundle_id == bundle_id), None)
