"""What MLflow's pages show of a build: each text is on the page that a person opens, and its links lead on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.registry.access import open_registry
from pipeline.registry.record import PLOT_FILES, Build
from pipeline.registry.registering import register_build
from pipeline.registry.store import THIS_RUN, Registry, version_of

pytestmark = pytest.mark.slow


@pytest.fixture
def drawn(build: Build) -> Build:
    """A build whose report left its pictures."""
    assert build.report is not None
    for name in PLOT_FILES:
        build.report.with_name(name).write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    return build


@pytest.fixture
def registry(tmp_path: Path, store_template: Path) -> Registry:
    shutil.copytree(store_template, tmp_path / "root")
    return open_registry(tmp_path / "root")


@pytest.fixture
def client(registry: Registry) -> Any:
    """MLflow's own client of the same store: what its pages read."""
    return registry._client


def test_the_pages_of_a_build_and_its_versions_tell_one_story(registry: Registry, client: Any, drawn: Build) -> None:
    run_id = register_build(registry, drawn).run_id
    note = client.get_run(run_id).data.tags["mlflow.note.content"]
    assert f"get-artifact?path=plots%2Floss.svg&run_uuid={run_id}" in note
    assert THIS_RUN not in note
    assert sorted(item.path for item in client.list_artifacts(run_id, "plots")) == [
        f"plots/{name}" for name in sorted(PLOT_FILES)
    ]
    version = client.get_model_version(drawn.model, "2")
    assert f"[{run_id}](#/runs/{run_id})" in version.description
    assert f"`{drawn.backup.bundle_id}`" in version.description
    candidate = client.get_run(version.tags["candidate_run_id"])
    assert candidate.info.run_name == drawn.backup.card.candidate
    assert candidate.data.tags["mlflow.parentRunId"] == run_id == version.tags["run_id"]
    assert (version.tags["parent_name"], version.tags["parent_sha256"]) == ("dense.f32.tflite", "dd" * 32)
    assert f"#/runs/{run_id}" in client.get_registered_model(drawn.model).description


def test_a_store_opened_later_in_the_process_does_not_get_the_first_ones_requests(
    registry: Registry, drawn: Build, tmp_path: Path
) -> None:
    open_registry(tmp_path / "another")
    entry = register_build(registry, drawn).entries[0]
    open_registry(tmp_path / "one-more")
    registry.fetch_bundle(drawn.model, entry.number, tmp_path / "fetched")
    ours = drawn.sealed[0].bundle
    assert sorted(one.name for one in (tmp_path / "fetched").iterdir()) == sorted(one.name for one in ours.iterdir())


def test_the_page_of_a_logged_model_names_its_version(registry: Registry, client: Any, drawn: Build) -> None:
    register_build(registry, drawn)
    version = client.get_model_version(drawn.model, "1")
    tags = client.get_logged_model(version.source.removeprefix("models:/")).tags
    assert json.loads(tags["mlflow.modelVersions"]) == [{"name": drawn.model, "version": "1"}]
    assert f"(#/models/{drawn.model}/versions/1)" in tags["mlflow.note.content"]


def test_a_version_of_an_older_build_keeps_telling_of_its_own(registry: Registry, drawn: Build) -> None:
    first = register_build(registry, drawn)
    second = register_build(registry, replace(drawn, backup=replace(drawn.backup, bundle_id="e".ljust(64, "0"))))
    assert first.run_id != second.run_id
    primary = version_of(registry.versions(drawn.model), drawn.primary.bundle_id)
    assert primary is not None
    assert f"#/runs/{first.run_id}" in primary.description
    assert f"#/runs/{second.run_id}" not in primary.description
    assert "`e0000000" in primary.description, "the bundle that it is paired with by now"
