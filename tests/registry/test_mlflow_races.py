"""Two processes that register at once: what each sees is made stale on purpose."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core.errors import OutOfSpace, Unreachable
from pipeline.registry.access import open_registry
from pipeline.registry.record import Build, build_draft, version_draft
from pipeline.registry.registering import register_build
from pipeline.registry.store import Registry, version_of

if TYPE_CHECKING:
    from pipeline.registry.mlflow_store import MlflowRegistry

pytestmark = pytest.mark.slow


@pytest.fixture
def store(tmp_path: Path, store_template: Path) -> "MlflowRegistry":
    shutil.copytree(store_template, tmp_path / "root")
    from pipeline.registry.mlflow_store import MlflowRegistry

    made: Registry = open_registry(tmp_path / "root")
    assert isinstance(made, MlflowRegistry)
    return made


def _first_stale(store: "MlflowRegistry", monkeypatch: pytest.MonkeyPatch, name: str, stale: object) -> None:
    """Let the first call of a method answer what was true before the other process wrote."""
    real, calls = getattr(store, name), []

    def answer(*arguments: object) -> object:
        calls.append(arguments)
        return stale if len(calls) == 1 else real(*arguments)

    monkeypatch.setattr(store, name, answer)


def test_the_loser_of_a_race_for_a_version_takes_the_winners(
    store: "MlflowRegistry", build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = register_build(store, build)
    _first_stale(store, monkeypatch, "versions", ())
    version = store.add_version(build.model, version_draft(build, build.backup, registered.run_id))
    assert version.number == registered.entries[1].number
    assert [item.number for item in store.versions(build.model)] == [1, 2]


def test_the_loser_of_a_race_for_a_run_takes_the_winners(
    store: "MlflowRegistry", build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = build_draft(build)
    winner = store.write_run(build.model, draft)
    _first_stale(store, monkeypatch, "_oldest_run", None)
    assert store.write_run(build.model, draft) == winner


def test_the_loser_of_a_race_for_a_first_alias_sets_it_again(
    store: "MlflowRegistry", build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import IntegrityError

    register_build(store, build)
    real, calls = store._client.set_registered_model_alias, []

    def collide_once(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 1:
            raise IntegrityError("insert", {}, Exception("UNIQUE constraint failed"))
        real(*arguments)

    monkeypatch.setattr(store._client, "set_registered_model_alias", collide_once)
    store.set_alias(build.model, "primary", 1)
    assert store.aliases(build.model) == {"primary": 1}


def _fault_of_mlflow() -> Exception:
    from mlflow.exceptions import MlflowException

    return MlflowException("database is locked\nlong trace")


def _fault_of_the_database() -> Exception:
    from sqlalchemy.exc import IntegrityError

    return IntegrityError("x", {}, Exception("y"))


def _fault_of_the_disk() -> Exception:
    return OSError("gone")


@pytest.mark.parametrize("fault", [_fault_of_mlflow, _fault_of_the_database, _fault_of_the_disk])
def test_whatever_mlflow_raises_is_one_sentence(
    store: "MlflowRegistry", monkeypatch: pytest.MonkeyPatch, fault: Callable[[], Exception]
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise fault()

    monkeypatch.setattr(store._client, "search_model_versions", fail)
    with pytest.raises(Unreachable) as caught:
        store.versions("credit")
    assert "long trace" not in str(caught.value)
    assert "list the versions of credit" in str(caught.value)


def test_a_full_disk_is_no_server_that_does_not_run(store: "MlflowRegistry", monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args, **_more):
        raise MlflowException("(sqlite3.OperationalError) database or disk is full\n[SQL: …]")

    from mlflow.exceptions import MlflowException

    monkeypatch.setattr(store._client, "search_model_versions", fails)
    with pytest.raises(OutOfSpace, match=r"No space is left for MLflow at .*; free some"):
        store.versions("credit")


def test_a_password_in_a_servers_address_is_not_told_when_it_stops_answering(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.registry.mlflow_store import MlflowRegistry

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Unreachable, match="did not open the store") as caught:
        MlflowRegistry("http://user:hunter2@127.0.0.1:1", "http://127.0.0.1:1", None)
    assert "hunter2" not in str(caught.value)


def test_a_swapped_version_is_still_found_by_its_bundle(store: "MlflowRegistry", build: Build) -> None:
    register_build(store, build)
    store.tag_version(build.model, 1, "selected_as", "backup")
    found = version_of(store.versions(build.model), build.primary.bundle_id)
    assert found is not None
    assert (found.number, found.tags["selected_as"]) == (1, "backup")
