"""Versions that anybody may have registered: what is in them never ends a process."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import Malformed, Unreachable
from pipeline.registry.access import open_registry
from pipeline.registry.store import Registry

if TYPE_CHECKING:
    from pipeline.registry.mlflow_store import MlflowRegistry

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path, store_template: Path) -> "MlflowRegistry":
    shutil.copytree(store_template, tmp_path / "root")
    from pipeline.registry.mlflow_store import MlflowRegistry

    made: Registry = open_registry(tmp_path / "root")
    assert isinstance(made, MlflowRegistry)
    made.describe_model("toy", "")
    return made


@pytest.fixture
def enter(store: "MlflowRegistry") -> Callable[[Path], int]:
    """Register a folder as a version, as a training script does."""

    def entered(folder: Path) -> int:
        client = store._client
        experiment = client.get_experiment_by_name("training")
        run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("training")).info
        client.log_artifacts(run.run_id, str(folder), "model")
        return int(client.create_model_version("toy", f"{run.artifact_uri}/model", run.run_id).version)

    return entered


@pytest.mark.parametrize(
    "described",
    [
        None, "", "[]", "a: [", "flavors: {}", "flavors: 7", "[" * 5000,
        "flavors: {python_function: {artifacts: {bundle: {path: ../../..}}}}",
        "flavors: {python_function: {artifacts: {bundle: {path: 7}}}}",
    ],
    ids=["none", "empty", "a list", "no yaml", "no flavor", "a number", "deep", "outside", "no path"],
)  # fmt: skip
def test_a_version_that_is_none_of_ours_is_told_whatever_describes_it(
    store: "MlflowRegistry", enter: Callable[[Path], int], tmp_path: Path, described: str | None
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(b"x")
    if described is not None:
        (folder / "MLmodel").write_text(described)
    number = enter(folder)
    with pytest.raises(Malformed, match=f"Version {number} of toy holds no bundle"):
        store.fetch_bundle("toy", number, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_a_version_with_two_folders_where_the_bundle_belongs_is_told(
    store: "MlflowRegistry", enter: Callable[[Path], int], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / "made" / "artifacts" / name).mkdir(parents=True)
        (tmp_path / "made" / "artifacts" / name / "bundle.sig").write_text("{}")
    with pytest.raises(Malformed, match="holds no bundle"):
        store.fetch_bundle("toy", enter(tmp_path / "made"), tmp_path / "to")


def test_a_version_that_lies_where_a_package_is_needed_that_is_not_here_is_told(
    store: "MlflowRegistry", tmp_path: Path
) -> None:
    from mlflow.exceptions import MlflowException

    try:
        version = store._client.create_model_version("toy", "gs://bucket/model").version
    except MlflowException:
        pytest.skip("this MLflow takes no such source")
    with pytest.raises(Unreachable, match="hand out the bundle"):
        store.fetch_bundle("toy", int(version), tmp_path / "to")


@pytest.mark.parametrize(
    "source", ["http://127.0.0.1:1/model", "ftp://a..b/model", "ftp://127.0.0.1:99999/model", "b2://bucket", "r2://b"]
)
def test_a_version_that_lies_where_no_registry_keeps_files_is_told(
    store: "MlflowRegistry", tmp_path: Path, source: str
) -> None:
    number = int(store._client.create_model_version("toy", source).version)
    run = store._client.create_run(store._client.create_experiment("odd", source)).info.run_id
    fetching = (
        lambda: store.fetch_bundle("toy", number, tmp_path / "to"),
        lambda: store.fetch_version("toy", number, tmp_path / "to"),
        lambda: store.fetch_run_files(run, "drill", tmp_path / "to"),
    )
    for fetch in fetching:
        with pytest.raises(Malformed, match=source.partition(":")[0]):
            fetch()


def test_a_version_in_a_bucket_that_nobody_here_has_keys_for_is_told(
    store: "MlflowRegistry", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    for name, value in {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "x",
        "AWS_SHARED_CREDENTIALS_FILE": "x",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    number = int(store._client.create_model_version("toy", "s3://bucket/model").version)
    with pytest.raises(Unreachable, match="hand out the bundle"):
        store.fetch_bundle("toy", number, tmp_path / "to")
