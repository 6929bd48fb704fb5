"""The one adapter over MLflow: runs, logged models, versions, aliases. Importing it takes MLflow's 7 seconds."""

import contextlib
import json
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS, MLFLOW_RUN_NOTE
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.errors import Malformed
from pipeline.core.files import disk_errors
from pipeline.core.printable import printable
from pipeline.registry.description import fitting
from pipeline.registry.mlflow_asking import asking, silence
from pipeline.registry.pyfunc_package import save_pyfunc
from pipeline.registry.store import BUNDLE_TAG, KEY_TAG, THIS_RUN, Run, RunDraft, Version, VersionDraft, version_of

_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_PRESENT = ("RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS")
# What the columns of MLflow hold (dbmodels/models.py of its two stores): SQLite takes more, PostgreSQL refuses it.
_DESCRIPTION_CHARS, _NOTE_CHARS = 5_000, 8_000
_STORES = ("", "file", "mlflow-artifacts", "s3", "gs", "wasbs", "abfss", "dbfs")


class MlflowRegistry:
    """A registry in MLflow's tracking and model stores at one address."""

    def __init__(self, uri: str, place: str, artifacts: Path | None) -> None:
        """Open the stores; ``artifacts`` is where runs keep files when no server keeps them.

        Raises Unreachable.
        """
        self.place = place
        self._artifacts = artifacts
        silence()
        self._uri = uri
        with self._asking("open the store"):
            self._client = mlflow.MlflowClient(uri, uri)
            self._client.search_experiments(max_results=1)

    def find_run(self, experiment: str, key: str) -> Run | None:
        """Return the run with this content key, or None."""
        with self._asking("look for a run"):
            found = self._client.get_experiment_by_name(experiment)
            if found is None or found.lifecycle_stage != "active":
                return None
            run = self._oldest_run(found.experiment_id, key)
        return None if run is None else Run(run.info.run_id, run.info.status == "FINISHED")

    def write_run(self, experiment: str, draft: RunDraft, parent: str | None = None) -> str:
        """Write a run's content and return its id; a run with the same key is written again, not twice."""
        with self._asking(f"log the run {draft.name}"):
            info = self._open_run(self._experiment_id(experiment), draft, parent)
            # Of two builders that write one run at once, one gets an integrity error: at worst one for each table.
            for _ in ("params", "metrics", "tags"):
                with contextlib.suppress(MlflowException, SQLAlchemyError):
                    self._log_batch(info, draft)
                    break
            else:
                self._log_batch(info, draft)
            for folder, path in draft.files:
                log = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
                log(info.run_id, str(path), folder or None)
        return str(info.run_id)

    def _log_batch(self, info: Any, draft: RunDraft) -> None:
        tags = {**draft.tags, **_mlflow_tags(draft, info.run_id)}
        self._client.log_batch(
            info.run_id,
            # The run's own start as time stamp: writing it again after a crash adds no second point.
            metrics=[Metric(key, value, info.start_time, 0) for key, value in draft.metrics.items()],
            params=[Param(key, value) for key, value in draft.params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def finish_run(self, run_id: str) -> None:
        """Mark a run as complete."""
        with self._asking("finish a run"):
            self._client.set_terminated(run_id, "FINISHED")

    def describe_model(self, model: str, text: str) -> None:
        """Set a registered model's Markdown description, creating the model when it is new."""
        text = fitting(text, _DESCRIPTION_CHARS)
        with self._asking(f"describe the registered model {model}"):
            try:
                self._client.create_registered_model(model, description=text)
            except MlflowException as error:
                if error.error_code not in _PRESENT:
                    raise
                if self._client.get_registered_model(model).description != text:
                    self._client.update_registered_model(model, text)

    def model_tags(self, model: str) -> dict[str, str]:
        """Return a registered model's tags; none when there is no such model."""
        found = self._model(model)
        return dict(found.tags) if found is not None else {}

    def tag_model(self, model: str, key: str, value: str) -> None:
        """Set one tag of a registered model."""
        with self._asking(f"tag the registered model {model}"):
            try:
                self._client.set_registered_model_tag(model, key, value)
            except (MlflowException, SQLAlchemyError):
                # As with aliases: of two first sets of one tag, one gets an integrity error.
                self._client.set_registered_model_tag(model, key, value)

    def untag_model(self, model: str, key: str) -> None:
        """Remove one tag of a registered model; one that is not there is no error."""
        with self._asking(f"remove a tag of the registered model {model}"):
            try:
                self._client.delete_registered_model_tag(model, key)
            except (MlflowException, SQLAlchemyError):
                if key in self._client.get_registered_model(model).tags:
                    raise

    def versions(self, model: str) -> tuple[Version, ...]:
        """Return a registered model's versions, oldest first."""
        with self._asking(f"list the versions of {model}"):
            found = self._client.search_model_versions(f"name='{model}'")
        return tuple(sorted(map(_version, found), key=lambda item: item.number))

    def add_version(self, model: str, draft: VersionDraft) -> Version:
        """Register a bundle; when somebody else registered it meanwhile, theirs is returned and ours is gone."""
        found = version_of(self.versions(model), draft.bundle_id)
        if found is not None:
            return found
        with self._asking(f"register a version of {model}"):
            model_id = self._log_model(draft)
            made = self._client.create_model_version(
                model,
                f"models:/{model_id}",
                run_id=draft.run_id,
                tags={**draft.tags, BUNDLE_TAG: draft.bundle_id},
                description=fitting(draft.description, _DESCRIPTION_CHARS),
                model_id=model_id,
            )
        first = version_of(self.versions(model), draft.bundle_id)
        if first is None or first.number == int(made.version):
            self._tell_model(model_id, model, str(made.version))
            return _version(made)
        with self._asking(f"take back a second version of the same bundle of {model}"):
            self._client.delete_model_version(model, made.version)
            self._client.delete_logged_model(model_id)
        return first

    def tag_version(self, model: str, number: int, key: str, value: str) -> None:
        """Set one tag of a version."""
        with self._asking(f"tag version {number} of {model}"):
            self._client.set_model_version_tag(model, str(number), key, value)

    def describe_version(self, model: str, number: int, text: str) -> None:
        """Set a version's Markdown description."""
        with self._asking(f"describe version {number} of {model}"):
            self._client.update_model_version(model, str(number), fitting(text, _DESCRIPTION_CHARS))

    def aliases(self, model: str) -> dict[str, int]:
        """Return which version each alias names; none when there is no such model."""
        found = self._model(model)
        return {alias: int(number) for alias, number in found.aliases.items()} if found is not None else {}

    def set_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version."""
        with self._asking(f"set the alias {alias} of {model}"):
            try:
                self._client.set_registered_model_alias(model, alias, str(number))
            except (MlflowException, SQLAlchemyError):
                # Two first sets of one alias race: the loser gets an integrity error, and its second try succeeds.
                self._client.set_registered_model_alias(model, alias, str(number))

    def remove_alias(self, model: str, alias: str) -> None:
        """Remove an alias; one that is not there is no error."""
        with self._asking(f"remove the alias {alias} of {model}"):
            try:
                self._client.delete_registered_model_alias(model, alias)
            except (MlflowException, SQLAlchemyError):
                if alias in self._client.get_registered_model(model).aliases:
                    raise

    def fetch_bundle(self, model: str, number: int, to: Path) -> None:
        """Write the bundle that a version holds as the folder ``to``, which must not exist; it is not verified.

        Raises Malformed for a version that somebody else made, Unreachable.
        """
        with (
            self._asking(f"hand out the bundle of version {number} of {model}"),
            tempfile.TemporaryDirectory(prefix="hotspare-", dir=to.parent) as folder,
        ):
            found = self._fetch_version(model, number, folder)
            _bundle_in(Path(found), f"Version {number} of {model}").rename(to)

    def fetch_version(self, model: str, number: int, to: Path) -> None:
        """Write all files of a version, whoever made it, below the folder ``to``; nothing of them is verified."""
        with self._asking(f"hand out version {number} of {model}"):
            self._fetch_version(model, number, str(to))

    def _fetch_version(self, model: str, number: int, to: str) -> str:
        place = self._client.get_model_version_download_uri(model, str(number))
        if place.startswith("runs:"):
            place = RunsArtifactRepository.get_underlying_uri(place)
        _require_store(place, f"Version {number} of {model}")
        return str(mlflow.artifacts.download_artifacts(f"models:/{model}/{number}", dst_path=to))

    def fetch_run_files(self, run_id: str, folder: str, to: Path) -> None:
        """Write a folder of a run's files as the folder ``to``, which must not exist; nothing of them is verified."""
        with (
            self._asking(f"hand out the files {folder} of a run"),
            tempfile.TemporaryDirectory(prefix="hotspare-", dir=to.parent) as aside,
        ):
            _require_store(self._client.get_run(run_id).info.artifact_uri, f"The run {run_id}")
            Path(self._client.download_artifacts(run_id, folder, aside)).rename(to)

    def _model(self, model: str) -> Any:
        with self._asking(f"read the registered model {model}"):
            try:
                return self._client.get_registered_model(model)
            except MlflowException as error:
                if error.error_code == _ABSENT:
                    return None
                raise

    def _experiment_id(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return self._new_experiment(name)
        if found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _new_experiment(self, name: str) -> str:
        location = None if self._artifacts is None else (self._artifacts / name).resolve().as_uri()
        # Without its kind, MLflow's pages open on traces of language models.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(self._client.create_experiment(name, location, tags))
        except MlflowException as error:
            if error.error_code not in _PRESENT:
                raise
            return str(self._client.get_experiment_by_name(name).experiment_id)

    def _open_run(self, experiment_id: str, draft: RunDraft, parent: str | None) -> Any:
        found = self._oldest_run(experiment_id, draft.key)
        if found is not None:
            return found.info
        tags = {KEY_TAG: draft.key} | ({"mlflow.parentRunId": parent} if parent else {})
        made = self._client.create_run(experiment_id, tags=tags, run_name=draft.name)
        first = self._oldest_run(experiment_id, draft.key)
        if first is None or first.info.run_id == made.info.run_id:
            return made.info
        self._client.delete_run(made.info.run_id)
        return first.info

    def _oldest_run(self, experiment_id: str, key: str) -> Any:
        found = self._client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=100)
        return min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _log_model(self, draft: VersionDraft) -> str:
        run = self._client.get_run(draft.run_id)
        made = self._client.create_logged_model(
            run.info.experiment_id, draft.name, draft.run_id, {BUNDLE_TAG: draft.bundle_id}, model_type="pyfunc"
        )
        with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
            packed = save_pyfunc(Path(folder) / "model", draft, made)
            self._client.log_model_artifacts(made.model_id, str(packed))
        self._client.finalize_logged_model(made.model_id, "READY")
        self._client.log_outputs(draft.run_id, [LoggedModelOutput(made.model_id, 0)])
        return str(made.model_id)

    def _tell_model(self, model_id: str, model: str, version: str) -> None:
        """Have the page of the logged model name its version, too; without, it offers to register it."""
        versions = json.dumps([{"name": model, "version": version}])
        note = f"This is [version {version} of {model}](#/models/{model}/versions/{version}), where its story is told."
        tags = {MLFLOW_MODEL_VERSIONS: versions, MLFLOW_RUN_NOTE: note}
        with self._asking(f"describe the model of version {version} of {model}"):
            self._client.set_logged_model_tags(model_id, tags)

    def _asking(self, doing: str) -> AbstractContextManager[None]:
        return asking(self._uri, self.place, doing)


def create_database(path: Path) -> None:
    """Create MLflow's SQLite file aside and rename it into place.

    MLflow's own creation takes seconds of migrations; one that is killed half-way can be neither used nor mended.
    Raises Unreachable, OutOfSpace or FileAccess.
    """
    aside = path.with_name(f".aside-{path.name}")
    for leftover in (aside, path.with_name(f"{aside.name}-journal")):
        leftover.unlink(missing_ok=True)
    MlflowRegistry(f"sqlite:///{aside}", str(path), path.parent / "artifacts")
    with disk_errors(path):
        aside.replace(path)


def _mlflow_tags(draft: RunDraft, run_id: str) -> dict[str, str]:
    """Return what MLflow's pages show under names of their own."""
    commit = draft.tags.get("git_commit")
    return {
        "mlflow.note.content": fitting(draft.description.replace(THIS_RUN, run_id), _NOTE_CHARS),
        "mlflow.source.name": "hotspare register",
        "mlflow.source.type": "LOCAL",
        **({"mlflow.source.git.commit": commit} if commit else {}),
    }


def _require_store(place: str, what: str) -> None:
    """Raise Malformed for an address where no registry keeps files: whoever registers may give any, and MLflow asks it.

    What its adapters for the others raise is no error of MLflow's, nor of anybody's.
    """
    head, colon, _ = place.partition(":")
    scheme = head.lower() if colon and "/" not in head else ""
    if scheme not in _STORES:
        raise Malformed(
            f"{what} lies at {printable(scheme)}://, from where nothing is fetched; register what it holds with files "
            "that the registry keeps."
        )


def _bundle_in(found: Path, what: str) -> Path:
    """Return the one folder below ``artifacts``, where :func:`save_pyfunc` puts it.

    MLflow's description of it would be anybody's YAML: it is not read.
    """
    below = found / "artifacts"
    folders = [path for path in below.iterdir() if path.is_dir()] if below.is_dir() else []
    if len(folders) != 1 or folders[0].is_symlink():
        raise Malformed(f"{what} holds no bundle as `hotspare register` leaves it; register it where its build is.")
    return folders[0]


def _version(found: Any) -> Version:
    return Version(int(found.version), str(found.run_id or ""), dict(found.tags), str(found.description or ""))
