"""Releases of a real project: from a clean clone, whole with promotion, and killed on the way."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

AUTHOR = {
    "GIT_AUTHOR_NAME": "builder", "GIT_AUTHOR_EMAIL": "builder@localhost",
    "GIT_COMMITTER_NAME": "builder", "GIT_COMMITTER_EMAIL": "builder@localhost",
}  # fmt: skip


@pytest.fixture
def built(project: Path, shell, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project after ``dvc repro``, committed."""
    for name, value in AUTHOR.items():
        monkeypatch.setenv(name, value)
    shell(["dvc", "repro"], project)
    shell(["git", "add", "-A"], project)
    shell(["git", "commit", "-qm", "Built"], project)
    return project


def _ids(told: dict) -> dict[str, str]:
    return {one["role"]: one["bundle_id"] for one in told["archives"]}


def _channel(project: Path) -> dict:
    return json.loads((project / "artifacts/channels/tiny/channel.json").read_text())


def test_a_clean_clone_without_a_key_gives_the_released_ids_twice(built: Path, shell, tmp_path: Path) -> None:
    """The lock pins what was measured; the cache brings it; neither the key nor the bundles travel."""
    clone = tmp_path / "clone"
    shell(["git", "clone", "-q", str(built), str(clone)], tmp_path)
    for name in ("data", "models", ".dvc/cache"):
        shutil.copytree(built / name, clone / name)
    shell(["dvc", "checkout", "--quiet", "prune", "quantize", "score", "select"], clone)
    assert not (clone / "artifacts/bundles").exists()
    assert not (clone / "artifacts/keys").exists()
    first, second = (json.loads(shell(["hotspare", "release", "--dry-run", "--json"], clone).stdout) for _ in range(2))
    assert _ids(first) == _ids(second) == {role: _channel(built)[role]["bundle_id"] for role in ("primary", "backup")}
    assert first["ephemeral_key"] is True
    assert first["git_commit"] == shell(["git", "rev-parse", "HEAD"], built).stdout.strip()
    assert [one for one in first["findings"] if one["word"] == "FAIL"] == []
    (clone / "artifacts/candidates/tiny/candidates.json").open("a").write(" ")
    refused = shell(["hotspare", "release", "--dry-run"], clone, check=False)
    assert refused.returncode == 25
    assert "candidates" in refused.stderr


def test_a_release_archives_then_promotes_and_a_second_one_changes_nothing(built: Path, shell) -> None:
    before = _channel(built)
    told = json.loads(shell(["hotspare", "release", "--to", "release", "--json"], built).stdout)
    assert _channel(built) == before  # `dvc repro` had promoted this pair
    assert _ids(told) == {role: before[role]["bundle_id"] for role in ("primary", "backup")}
    out = built / "release"
    shell(["sha256sum", "--check", "--strict", "SHA256SUMS"], out)
    for name in [one["file"] for one in told["archives"]] + ["tiny-channel.tar.zst"]:
        shell(["tar", "--zstd", "-xf", name], out)
    for one in told["archives"]:
        place = one["file"].removesuffix(".tar.zst")
        attested = [f"--drill={place}/attestations/drill.json", f"--provenance={place}/attestations/provenance.json"]
        policy = ["--trust", "../artifacts/trust.yaml", "--channel", "tiny-channel", "--role", one["role"]]
        shell(["hotspare", "verify", place, *policy, *attested], out)
    assert f"seq {before['seq']}" in (out / "RELEASE.md").read_text()


def test_the_procedure_of_the_operations_page_runs_as_it_stands(built: Path, shell, root: Path) -> None:
    page = (root / "docs/operations.md").read_text()
    (section,) = re.findall(r"^## Release\n(.*?)(?=^## )", page, re.MULTILINE | re.DOTALL)
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    shell(["bash", "-euc", "".join(blocks)], built)
    assert (built / "release/RELEASE.md").is_file()


def test_a_release_of_a_new_pair_is_promoted_after_it_was_archived(built: Path, shell) -> None:
    before = _channel(built)
    recipe = built / "recipes/models/tiny.yaml"
    recipe.write_text(recipe.read_text().replace("title: tiny", "title: Another title"))
    shell(["dvc", "repro", "pack", "report"], built)
    refused = shell(["hotspare", "release", "--to", "release"], built, check=False)
    assert refused.returncode == 25  # the recipe is not committed
    shell(["git", "commit", "-qam", "Another title"], built)
    refused = shell(["hotspare", "release", "--to", "release"], built, check=False)
    assert refused.returncode == 21, refused.stderr  # the gates ask for a drill of this pair
    assert not (built / "release").exists()
    assert _channel(built) == before
    shell(["hotspare", "release", "--to", "release", "--drill"], built)
    assert _channel(built)["seq"] == before["seq"] + 1
    assert (built / "release/tiny-channel.tar.zst").is_file()


def test_a_killed_release_leaves_the_last_one_or_the_next_and_goes_through_when_repeated(built: Path, shell) -> None:
    shell(["hotspare", "release", "--to", "release"], built)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(6):
        running = subprocess.Popen(
            ["hotspare", "release", "--to", "release"], cwd=built, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(chance.uniform(0, 40))  # the moment of the kill, not a wait for a state
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        shell(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], built / "release")
    seq = _channel(built)["seq"]
    shell(["hotspare", "release", "--to", "release"], built)
    assert _channel(built)["seq"] == seq, f"seed {seed}"
    assert [path for path in built.iterdir() if path.name.startswith((".aside", ".replaced"))] == []
