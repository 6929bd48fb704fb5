"""A release ends with a promotion: real bundles and channels, a registry in memory."""

import shutil
import subprocess
from pathlib import Path

import pytest
from toy_project import make_project

from pipeline.bundle.channel import Channel
from pipeline.bundle.policy import load_policy
from pipeline.cli import main
from pipeline.commands.build import project as project_of_commands
from pipeline.commands.build import register, release, release_folder, release_pair
from pipeline.commands.build.channel_folder import current_channel
from pipeline.core import layout
from pipeline.registry.memory import MemoryRegistry

pytestmark = pytest.mark.slow
MODELS = ("credit", "fraud")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two builds of two models under one key, folders 0 and 1."""
    root = tmp_path_factory.mktemp("packed")
    make_project(root / "0", dict.fromkeys(MODELS, 0))
    make_project(root / "1", dict.fromkeys(MODELS, 1), like=root / "0")
    return root


@pytest.fixture(autouse=True)
def project(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    shutil.copytree(packed / "0", root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOTSPARE_PERSON", "ada@example.org")
    Path("dvc.lock").write_text("schema: '2.0'\n")
    registry = MemoryRegistry()
    for module in (register, project_of_commands):
        monkeypatch.setattr(module, "open_registry", lambda _: registry)
    monkeypatch.setattr(release, "stale_stages", lambda models: dict.fromkeys(models, ()))
    for room in (release_pair, release_folder):
        monkeypatch.setattr(room, "require_second_opinion", lambda *_: None)
    return root


def build_again(packed: Path) -> None:
    for part in ("artifacts/bundles", "artifacts/selections", "artifacts/scorecards", "recipes"):
        shutil.rmtree(part)
        shutil.copytree(packed / "1" / part, part)


def channel(model: str) -> Channel | None:
    return current_channel(model, load_policy(layout.TRUST_POLICY))


def files(folder: str = "out") -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def seqs() -> list[int]:
    return [found.seq for found in map(channel, MODELS) if found is not None]


def test_what_is_released_is_promoted_and_its_channel_travels_with_it() -> None:
    assert main(["release", "--to", "out"]) == 0
    assert seqs() == [1, 1]
    assert {f"{model}-channel.tar.zst" for model in MODELS} < files()
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd="out", check=True)
    for model in MODELS:
        found = channel(model)
        bundle = f"{model}-backup-{found.backup.bundle_id[:12]}"
        for name in (bundle, f"{model}-channel"):
            subprocess.run(["tar", "--zstd", "-xf", f"{name}.tar.zst"], cwd="out", check=True)
        policy = ["--trust", str(layout.TRUST_POLICY), "--channel", f"out/{model}-channel", "--role", "backup"]
        assert main(["verify", f"out/{bundle}", *policy]) == 0


def test_the_same_release_again_changes_no_channel_and_the_next_build_gets_the_next_number(packed: Path) -> None:
    for _ in range(2):
        assert main(["release", "credit", "--to", "out"]) == 0
        assert seqs() == [1]
    before = files()
    build_again(packed)
    assert main(["release", "credit", "--to", "out"]) == 0
    assert seqs() == [2]
    assert len(files()) == len(before)
    assert not {name for name in files() & before if name.startswith("credit-primary")}


def test_a_release_that_dies_after_it_promoted_is_finished_by_the_same_command(monkeypatch) -> None:
    finish = release.finish

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(release, "finish", die)
    assert main(["release", "credit", "--to", "out"]) == 130
    assert seqs() == [1]
    assert not Path("out").exists()
    monkeypatch.setattr(release, "finish", finish)
    assert main(["release", "credit", "--to", "out"]) == 0
    assert seqs() == [1]
    assert "credit-channel.tar.zst" in files()


def test_one_model_that_the_gates_refuse_leaves_no_folder_and_the_others_can_be_released(capsys) -> None:
    recipe = Path("recipes/models/fraud.yaml")
    recipe.write_text(recipe.read_text().replace("diverse: [scheme]", "diverse: [engine]"))
    assert main(["release", "--to", "out"]) == 21
    assert "fraud" in capsys.readouterr().err
    assert channel("fraud") is None
    assert not Path("out").exists()
    assert main(["release", "credit", "--to", "out"]) == 0
    assert channel("credit").seq == 1


def test_archives_alone_promote_nothing_and_have_no_channel_until_there_is_one() -> None:
    assert main(["release", "--to", "out", "--no-promote"]) == 0
    assert seqs() == []
    assert not {name for name in files() if "channel" in name}
    assert main(["register"]) == 0
    assert main(["release", "--to", "out", "--no-promote"]) == 0
    assert {name for name in files() if "channel" in name} == {f"{model}-channel.tar.zst" for model in MODELS}
