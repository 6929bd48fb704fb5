"""``hotspare retire`` on bundles that ``pack`` really signed: what goes, what stays, and that one can go back."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from oci_registry import FakeRegistry
from toy_project import make_releases

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import read_channel
from pipeline.cli import main
from pipeline.commands.build import project as project_of_commands
from pipeline.commands.build import register, retire
from pipeline.core import layout
from pipeline.core.errors import FileAccess, PromotionRefused, Tampered, Unreachable, UsageError
from pipeline.registry.memory import MemoryRegistry
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import load_private_key

pytestmark = pytest.mark.slow
RELEASES = 4
DEPOT = Path("depot")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    make_releases(root, "toy", RELEASES)
    return root


@pytest.fixture
def store(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemoryRegistry:
    """The registry of a project, the working folder, that published nothing yet; its depot is a folder."""
    shutil.copytree(packed / "0", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HOTSPARE_PERSON", "ada@example.org")
    Path("mlflow/store").mkdir(exist_ok=True)
    Path("mlflow/store/mlflow.db").touch()
    made = MemoryRegistry()
    for module in (register, project_of_commands):
        monkeypatch.setattr(module, "open_registry", lambda _: made)
    _depot_at(str(DEPOT))
    return made


@pytest.fixture
def published(store: MemoryRegistry, packed: Path) -> MemoryRegistry:
    """Four releases in the depot, as seqs 1 to 4."""
    _publish_all(packed)
    return store


def _depot_at(address: str) -> None:
    path = Path("mlflow/promotion.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "depot": address}))


def _publish_all(packed: Path) -> None:
    for number in range(RELEASES):
        for part in ("artifacts/bundles", "artifacts/selections", "artifacts/scorecards", "recipes"):
            shutil.rmtree(part)
            shutil.copytree(packed / str(number) / part, part)
        assert main(["register"]) == 0


def _json(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _files() -> dict[str, int]:
    return {str(path.relative_to(DEPOT)): path.stat().st_size for path in DEPOT.rglob("*") if path.is_file()}


def test_old_releases_go_and_the_newest_stay(published: MemoryRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    before = _files()
    planned = _json(capsys, "retire", "--keep", "2", "--days", "0", "--dry-run")
    assert _files() == before
    told = _json(capsys, "retire", "--keep", "2", "--days", "0")
    assert told == {**planned, "dry_run": False}
    assert {one["seq"] for one in told["removed"]} == {1, 2}
    gone = {path: size for path, size in before.items() if path not in _files()}
    assert sum(size for path, size in gone.items() if path.startswith("chunks/")) == told["bytes"] > 0
    assert {path.split("/")[1] for path in gone if path.startswith("bundles/")} == {
        one["bundle"] for one in told["removed"]
    }
    trust = ["--trust", "artifacts/trust.yaml"]
    assert main(["stage", "depot/channels/toy", *trust, "--to", "staged"]) == 0


def test_again_there_is_nothing_to_remove(published: MemoryRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["retire", "toy", "--keep", "2", "--days", "0"]) == 0
    assert "are removed" in capsys.readouterr().out
    assert main(["retire", "toy", "--keep", "2", "--days", "0"]) == 0
    assert "nothing is removed" in capsys.readouterr().out


def test_by_default_what_was_in_force_in_the_last_week_stays(
    published: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _json(capsys, "retire", "--keep", "2")["removed"] == []
    assert _json(capsys, "retire", "--days", "0")["removed"] == []


def test_rolling_back_to_a_removed_release_publishes_it_again(published: MemoryRegistry) -> None:
    before = _files()
    assert main(["retire", "toy", "--keep", "2", "--days", "0"]) == 0
    assert main(["rollback", "toy", "--to", "1"]) == 0
    back = _files()
    assert {path for path in before if path in back} > {path for path in back if path.startswith("chunks/")}
    trust = ["--trust", "artifacts/trust.yaml"]
    assert main(["stage", "depot/channels/toy", *trust, "--to", "staged"]) == 0


def test_a_depot_that_lacks_the_release_in_force_is_left_alone(
    published: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move("depot", "kept")
    assert main(["promote", "toy", "--renew"]) == 0
    shutil.rmtree("depot")
    shutil.move("kept", "depot")
    before = _files()
    assert main(["retire", "--keep", "2", "--days", "0"]) == PromotionRefused.exit_code
    assert "in force is seq 5; publish that first: `hotspare reconcile toy`" in capsys.readouterr().err
    assert _files() == before


@pytest.mark.parametrize("attack", ["of a strange key", "of another model"])
def test_a_depot_whose_channel_is_not_ours_is_left_alone_and_what_to_do_is_told(
    published: MemoryRegistry, capsys: pytest.CaptureFixture[str], attack: str
) -> None:
    place = DEPOT / "channels/toy/channel.sig"
    policy = load_policy(layout.TRUST_POLICY)
    ours, _ = read_channel(place.read_bytes(), policy)
    strange = ec.generate_private_key(ec.SECP256R1()) if attack == "of a strange key" else load_private_key()
    model = "toy" if attack == "of a strange key" else "other"
    place.write_bytes(sign_channel(replace(ours, model=model), strange)[1])
    before = _files()
    capsys.readouterr()
    assert main(["retire", "--keep", "2", "--days", "0"]) == PromotionRefused.exit_code
    told = " ".join(capsys.readouterr().err.split())
    assert "nothing is removed" in told
    assert "hotspare reconcile toy --replace-depot" in told
    assert _files() == before
    assert main(["reconcile", "toy", "--replace-depot"]) == 0
    assert main(["retire", "--keep", "2", "--days", "0"]) == 0
    assert _files() != before


def test_a_rollback_meanwhile_is_noticed_and_mended_as_it_says(
    store: MemoryRegistry,
    packed: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In another folder, which shares the registry and the depot, but not the lock."""
    _depot_at(str(tmp_path / "shared"))
    _publish_all(packed)
    here, there, real = Path.cwd(), tmp_path / "there", retire.remove
    shutil.copytree(here, there)

    def elsewhere(*command: str) -> None:
        monkeypatch.chdir(there)
        assert main(list(command)) == 0
        monkeypatch.chdir(here)

    def meanwhile(*given: Any) -> None:
        elsewhere("rollback", "toy", "--to", "1")
        real(*given)

    monkeypatch.setattr(retire, "remove", meanwhile)
    assert main(["retire", "--keep", "2", "--days", "0"]) == Unreachable.exit_code
    assert "seq 5 of toy, which lacks chunks that were removed" in capsys.readouterr().err
    staging = ["stage", f"{tmp_path}/shared/channels/toy", "--trust", "artifacts/trust.yaml", "--to", "staged"]
    assert main(staging) == Tampered.exit_code
    elsewhere("promote", "toy", "--renew")
    assert main(staging) == 0


@pytest.mark.parametrize("words", [["--keep", "1"], ["--days", "-1"], ["--days", "nan"], ["--keep", "0"]])
def test_a_rule_that_leaves_no_way_back_is_refused(store: MemoryRegistry, words: list[str]) -> None:
    assert main(["retire", *words]) == UsageError.exit_code


@pytest.mark.parametrize(
    ("address", "sentence"),
    [(None, "names no depot"), ("https://models.example.org/depot", "can only be read")],
)
def test_without_a_depot_that_lets_remove_it_says_so(
    store: MemoryRegistry,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    address: str | None,
    sentence: str,
) -> None:
    monkeypatch.setattr(project_of_commands.Project, "depot_channel", lambda *_: None)
    if address is None:
        path = Path("mlflow/promotion.yaml")
        path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "depot"}))
    else:
        _depot_at(address)
    assert main(["retire"]) == UsageError.exit_code
    assert sentence in capsys.readouterr().err


def test_an_oci_registry_is_told_to_forget_and_frees_the_room_itself(
    store: MemoryRegistry, packed: Path, registry: FakeRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    _depot_at(registry.address)
    _publish_all(packed)
    blobs, tags = dict(registry.blobs), dict(registry.tags)
    registry.can_delete = False
    capsys.readouterr()
    assert main(["retire", "--keep", "2", "--days", "0"]) == FileAccess.exit_code
    assert "lets nothing be removed" in capsys.readouterr().err
    assert registry.tags == tags
    registry.can_delete = True
    assert main(["retire", "--keep", "2", "--days", "0"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "The room is free when the registry has collected its garbage" in told
    assert registry.blobs == blobs
    assert len(tags) - len(registry.tags) >= 4 * 3
    channel = f"{registry.address}/channels/toy"
    assert main(["stage", channel, "--trust", "artifacts/trust.yaml", "--to", "staged"]) == 0
