"""The registry that outgrew one machine, for real: ``mlflow/server.sh`` on PostgreSQL and S3 storage, builders at once.

PostgreSQL comes from Debian's package, the object store is moto's server. Builders are processes with project folders
of their own and nothing of the server's but its address.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from contending import storm
from postgres import Cluster, running_postgres
from registry_server import (
    ADMIN,
    BUCKET,
    ObjectStore,
    run_script,
    running_object_store,
    running_server,
    server_environment,
)
from toy_project import make_project

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import read_channel, verify_bundle
from pipeline.commands.build.mending import align, look
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.names import Role
from pipeline.registry.access import open_registry
from pipeline.registry.store import Registry, Version

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

BUILDERS = 4
_PATIENT = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "300"}  # the machine may run other tests, too
_SECONDS_MAX = 600
# One model that every builder packed alike, and one that each packed from a recipe of its own.
ALIKE, CONTESTED = "alike", "contested"


@dataclass(frozen=True)
class Running:
    """The server, and what it stands on."""

    address: str
    environment: Mapping[str, str]
    cluster: Cluster
    store: ObjectStore


@pytest.fixture(autouse=True, scope="module")
def patient() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _PATIENT.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_postgres() as made:
        yield made


@pytest.fixture(scope="module")
def server(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("server") / "log"
    with running_object_store() as store:
        environment = server_environment(cluster.create("mlflow"), store, "none")
        with running_server(environment, log) as address:
            yield Running(address, environment, cluster, store)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """A project folder for each builder; all sign with one key."""
    root = tmp_path_factory.mktemp("builders")
    made = tuple(root / f"builder-{number}" for number in range(BUILDERS))
    for number, folder in enumerate(made):
        make_project(folder, {ALIKE: 1, CONTESTED: 10 + number}, like=made[0] if number else None)
    return made


@pytest.fixture(scope="module")
def registered(server: Running, folders: tuple[Path, ...]) -> Registry:
    """The registry after all builders registered and promoted at once."""
    processes = [_start(folder, server.address, "register") for folder in folders]
    for process in processes:
        output, told = process.communicate(timeout=_SECONDS_MAX)
        assert process.returncode == 0, told
        assert json.loads(output)
    return _open(server.address, folders[0])


def _start(folder: Path, address: str, *command: str, **more: str) -> "subprocess.Popen[str]":
    """Start a command as a builder, who knows the server's address and no key of its storage."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PG", "MLFLOW_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", *command, "--json"],
        cwd=folder,
        env={**kept, **_PATIENT, "MLFLOW_TRACKING_URI": address, "AWS_EC2_METADATA_DISABLED": "true", **more},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(folder: Path, address: str, *command: str, **more: str) -> tuple[int, str]:
    process = _start(folder, address, *command, **more)
    output, told = process.communicate(timeout=_SECONDS_MAX)
    return process.returncode, output + told


def _open(address: str, folder: Path) -> Registry:
    return open_registry(folder, {"MLFLOW_TRACKING_URI": address})


def _bundle_ids(folder: Path, model: str) -> dict[str, str]:
    with contextlib.chdir(folder):
        policy, now = load_policy(layout.TRUST_POLICY), utc_now()
        return {str(role): verify_bundle(layout.bundle_dir(model, role), policy, now).bundle_id for role in Role}


def _aliased(registry: Registry, model: str) -> dict[str, str]:
    versions = {version.number: version.bundle_id for version in registry.versions(model)}
    aliases = registry.aliases(model)
    return {str(role): versions[aliases[role]] for role in Role}


def test_what_all_built_alike_is_there_once_and_every_other_bundle_too(
    registered: Registry, folders: tuple[Path, ...]
) -> None:
    alike = sorted(version.bundle_id for version in registered.versions(ALIKE))
    assert alike == sorted(_bundle_ids(folders[0], ALIKE).values())
    expected = sorted(bundle_id for folder in folders for bundle_id in _bundle_ids(folder, CONTESTED).values())
    assert sorted(version.bundle_id for version in registered.versions(CONTESTED)) == expected


def test_the_aliases_name_one_builders_pair_that_of_the_newest_channel(
    registered: Registry, folders: tuple[Path, ...]
) -> None:
    with contextlib.chdir(folders[0]):
        trust = load_policy(layout.TRUST_POLICY)
        align(registered, CONTESTED, trust)
        seen = look(registered, CONTESTED, trust)
    pairs = [_bundle_ids(folder, CONTESTED) for folder in folders]
    newest = seen.in_force
    assert newest is not None
    assert {str(role): newest.channel.ref(role).bundle_id for role in Role} in pairs
    assert _aliased(registered, CONTESTED) == {str(role): newest.channel.ref(role).bundle_id for role in Role}
    assert len({held.place for held in seen.all_held}) == len(seen.all_held)


def test_every_folder_comes_to_the_same_channel(registered: Registry, folders: tuple[Path, ...]) -> None:
    signatures = set()
    for folder in folders:
        with contextlib.chdir(folder):
            trust = load_policy(layout.TRUST_POLICY)
            align(registered, CONTESTED, trust)
            signature = (layout.channel_dir(CONTESTED) / "channel.sig").read_bytes()
            read_channel(signature, trust)
            signatures.add(signature)
    assert len(signatures) == 1


def test_every_version_holds_its_bundle_and_every_run_is_finished(
    registered: Registry, folders: tuple[Path, ...], tmp_path: Path
) -> None:
    policy = load_policy(folders[0] / layout.TRUST_POLICY)
    for model in (ALIKE, CONTESTED):
        for version in registered.versions(model):
            registered.fetch_bundle(model, version.number, tmp_path / f"{model}-{version.number}")
            bundle = verify_bundle(tmp_path / f"{model}-{version.number}", policy, utc_now())
            assert bundle.bundle_id == version.bundle_id
            _check_runs(registered, version)


def _check_runs(registry: Registry, version: Version) -> None:
    client = registry._client
    for run_id in (version.run_id, version.tags["candidate_run_id"]):
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        assert client.list_artifacts(run_id)
    assert version.tags["run_id"] == version.run_id


def test_the_files_are_in_the_bucket_and_nowhere_else(
    server: Running, registered: Registry, folders: tuple[Path, ...]
) -> None:
    keys = server.store.sizes(BUCKET)
    assert all(key.startswith("mlflow/") for key in keys)
    signatures = [key for key in keys if "/models/" in key and key.endswith("/bundle.sig")]
    assert len(signatures) >= len(registered.versions(ALIKE)) + len(registered.versions(CONTESTED))
    for folder in folders:
        assert [path.name for path in (folder / "mlflow").rglob("*") if path.is_file()] == ["promotion.yaml", ".lock"]


def test_a_version_loads_from_another_machine_that_knows_the_address_alone(
    server: Running, registered: Registry, tmp_path: Path
) -> None:
    code = (
        "import json, mlflow, numpy\n"
        f"model = mlflow.pyfunc.load_model('models:/{CONTESTED}@backup')\n"
        "answers = model.predict({'features': numpy.zeros((2, 8), numpy.float32)})\n"
        "print(json.dumps({name: array.shape for name, array in answers.items()}))\n"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PG", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**kept, "MLFLOW_TRACKING_URI": server.address},
        capture_output=True,
        text=True,
        timeout=_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"probability": [2, 1]}


def test_a_project_moves_from_its_own_store_and_its_channel_goes_on(
    server: Running, store_template: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "moving"
    make_project(folder, {"moving": 1})
    shutil.copytree(store_template / "mlflow" / "store", folder / "mlflow" / "store")
    code, told = _run(folder, "", "register")
    assert code == 0, told
    make_project(folder, {"moving": 2})
    code, told = _run(folder, server.address, "register")
    assert code == 0, told
    with contextlib.chdir(folder):
        seen = look(_open(server.address, folder), "moving", load_policy(layout.TRUST_POLICY))
    assert [held.channel.seq for held in seen.all_held] == [1, 2]
    assert [version.bundle_id for version in seen.versions] == list(_bundle_ids(folder, "moving").values())


def test_text_longer_than_postgresql_keeps_is_cut_not_refused(registered: Registry) -> None:
    registered.describe_model(ALIKE, "a line of words é\n" * 1000)
    registered.describe_version(ALIKE, registered.versions(ALIKE)[0].number, "a line of words é\n" * 1000)
    kept = registered.versions(ALIKE)[0].description
    assert 4_900 < len(kept) <= 5_000
    assert kept.endswith("…")


def test_a_restored_dump_and_bucket_are_the_whole_registry(
    server: Running, registered: Registry, folders: tuple[Path, ...], tmp_path: Path
) -> None:
    """The procedure of docs/operations.md: database first, then the bucket; restored the other way round."""
    dump = tmp_path / "mlflow.dump"
    server.cluster.run("pg_dump", "mlflow", "-Fc", "-f", str(dump))
    objects = server.store.client()
    objects.create_bucket(Bucket="restored")
    for key in server.store.sizes(BUCKET):
        objects.copy({"Bucket": BUCKET, "Key": key}, "restored", key)
    database = server.cluster.create("restored")
    server.cluster.run("pg_restore", "restored", "--exit-on-error", "-d", "restored", str(dump))
    environment = server_environment(database, server.store, "none", "restored")
    with running_server(environment, tmp_path / "log") as address:
        restored = _open(address, folders[0])
        assert restored.versions(CONTESTED) == registered.versions(CONTESTED)
        assert restored.aliases(CONTESTED) == registered.aliases(CONTESTED)
        number = restored.aliases(CONTESTED)["backup"]
        restored.fetch_bundle(CONTESTED, number, tmp_path / "bundle")
        verify_bundle(tmp_path / "bundle", load_policy(folders[0] / layout.TRUST_POLICY), utc_now())


def test_users_are_told_apart_and_passwords_are_never_repeated(
    server: Running, folders: tuple[Path, ...], tmp_path: Path
) -> None:
    environment = server_environment(server.cluster.create("users"), server.store, "basic")
    assert run_script(environment, "--check").stderr == ""
    missing = run_script({**environment, "MLFLOW_AUTH_ADMIN_PASSWORD": ""}, "--check")
    assert missing.returncode == 2
    assert "has no users yet, and MLFLOW_AUTH_ADMIN_PASSWORD" in missing.stderr
    password = environment["MLFLOW_AUTH_ADMIN_PASSWORD"]
    with running_server(environment, tmp_path / "log") as address:
        wrong = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": f"{password}x"}
        for user in ({}, wrong):
            code, told = _run(folders[0], address, "register", ALIKE, **user)
            assert code == 40
            assert len(told.strip().splitlines()) == 1
            assert password not in told
        right = {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": password}
        code, told = _run(folders[0], address, "register", ALIKE, **right)
        assert code == 0, told
    assert password not in (tmp_path / "log").read_text()
    # The admin is in the database by now; its password is asked for no more.
    later = run_script({**environment, "MLFLOW_AUTH_ADMIN_PASSWORD": ""}, "--check")
    assert later.returncode == 0, later.stderr


@pytest.mark.timeout(3600)
def test_eight_processes_promote_and_roll_back_two_hundred_times_under_kills(server: Running, tmp_path: Path) -> None:
    outcome = storm(tmp_path, server.address, promotions=200, processes=8, folders=4, seed=6)
    print(outcome)
    assert outcome.wrong == []
    assert outcome.seq >= outcome.promotions >= 200, "a number was given out twice"
    assert outcome.kills >= 20
    assert outcome.rollbacks >= 50


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PGPASSWORD": "wrong"}, "PostgreSQL does not let"),
        ({"PGHOST": "127.0.0.1", "PGPORT": "1"}, "PostgreSQL does not let"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": "s3://nowhere"}, "it does not exist"),
        ({"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:1"}, "cannot be used"),
    ],
)
def test_what_the_server_cannot_reach_is_one_sentence_before_it_starts(
    server: Running, changes: dict[str, str], words: str
) -> None:
    done = run_script({**server.environment, **changes})
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert words in sentence
    assert server.environment["PGPASSWORD"] not in sentence
