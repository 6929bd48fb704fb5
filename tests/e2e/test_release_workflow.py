"""The release workflow, job by job: its own scripts, a fresh clone each, what one job leaves for the next.

Whatever an action of GitHub's does is played here as far as the scripts can tell: checkout, artifacts, the command
``gh``. Schema, pins and permissions are looked at in ``tests/commands/test_workflows.py``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from registry_server import await_answer, free_port

from pipeline.bundle.public_key import key_hint
from pipeline.core.environment import SIGNING_KEY
from pipeline.core.recipe import RECIPES
from pipeline.seal.keys import PRIVATE_KEY, load_private_key

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
MODELS = sorted(path.stem for path in (ROOT / RECIPES).glob("*.yaml"))
EXPRESSION = re.compile(r"\$\{\{ *([\w.]+) *\}\}")
GH = """#!/bin/sh -e
# What the workflow asks of a repository's releases: one folder a release, a draft until somebody says it is none.
[ "$1" = release ]
action=$2 at=$RELEASES/$3
shift 3
case $action in
  view) test -d "$at" ;;
  create) mkdir "$at"; touch "$at.draft" ;;
  upload) for file; do case $file in --clobber) ;; *) cp "$file" "$at/" ;; esac; done ;;
  edit) rm -f "$at.draft" ;;
esac
"""


@dataclass
class Repository:
    """A repository with the workflow in it, as far as its jobs can tell."""

    folder: Path
    variables: dict[str, str]
    secrets: dict[str, str]

    def release(self, tag: str) -> Path:
        """Play the whole workflow for a tag; return what was published."""
        for job in ("build", "publish", "promote", "channels"):
            self.play(job, tag)
        assert not (self.folder / f"releases/{tag}.draft").exists()
        return self.folder / "releases" / tag

    def play(self, job: str, tag: str) -> Path:
        """Play one job on a machine of its own; return the folder that it stood in."""
        told = WORKFLOW["jobs"][job]
        if condition := told.get("if"):
            assert condition == "vars.MLFLOW_TRACKING_URI != ''"
        room = self.folder / f"{tag}-{job}"
        shutil.rmtree(room, ignore_errors=True)
        room.mkdir()
        for step in told["steps"]:
            if "uses" in step:
                self._act(step["uses"].partition("@")[0], step.get("with", {}), room)
            else:
                self._run(step, room, tag)
        return room

    def _act(self, action: str, given: Mapping[str, str], room: Path) -> None:
        match action:
            case "actions/checkout":
                subprocess.run(["git", "clone", "--quiet", ROOT, room], check=True)
            case "actions/upload-artifact":
                kept = self.folder / "artifacts" / given["name"]
                shutil.rmtree(kept, ignore_errors=True)
                source = room / given["path"]
                if source.is_dir():
                    shutil.copytree(source, kept)
                else:
                    kept.mkdir(parents=True)
                    shutil.copy(source, kept)
                assert any(kept.iterdir())
            case "actions/download-artifact":
                shutil.copytree(
                    self.folder / "artifacts" / given["name"], room / given.get("path", "."), dirs_exist_ok=True
                )
            case "actions/attest-build-provenance":
                assert list(room.glob(given["subject-path"]))
            case "actions/setup-python":
                pass
            case _:
                pytest.fail(f"this test does not know what {action} does")

    def _run(self, step: Mapping, room: Path, tag: str) -> None:
        environment = {name: self._value(text, tag) for name, text in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=room / step.get("working-directory", "."),
            env={**self._machine(tag), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        name = step.get("name", step["run"])
        assert done.returncode == 0, f"{name}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    def _value(self, text: str, tag: str) -> str:
        context = {"github.token": "t", "github.repository": "team/models", "github.ref_name": tag,
                   "github.actor": "ann"}  # fmt: skip
        context |= {f"vars.{name}": value for name, value in self.variables.items()}
        context |= {f"secrets.{name}": value for name, value in self.secrets.items()}
        return EXPRESSION.sub(lambda match: context.get(match[1], ""), text)

    def _machine(self, tag: str) -> dict[str, str]:
        foreign = ("AWS_", "CI", "GITHUB_", "HOTSPARE_", "MLFLOW_", "PYTHON", "VIRTUAL_ENV")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(foreign)},
            "PATH": f"{self.folder / 'bin'}:{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "RELEASES": str(self.folder / "releases"),
            "CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_REPOSITORY": "team/models", "GITHUB_RUN_ID": "7", "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_REF": f"refs/tags/{tag}",
            "GITHUB_WORKFLOW_REF": f"team/models/.github/workflows/release.yml@refs/tags/{tag}",
        }  # fmt: skip


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("first", "next"):
        _hotspare("keys", "new", str(folder / name), cwd=folder)
    return {name: folder / name for name in ("first", "next")}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """An MLflow server over HTTP."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", f"{tmp_path}/kept"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    log = tmp_path / "registry.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=stream, stderr=stream)
    try:
        await_answer(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def repository(tmp_path: Path, keys: Mapping[str, Path], registry: str) -> Repository:
    for name in ("bin", "releases", "artifacts"):
        (tmp_path / name).mkdir()
    gh = tmp_path / "bin/gh"
    gh.write_text(GH)
    gh.chmod(0o755)
    secrets = {SIGNING_KEY: (keys["first"] / PRIVATE_KEY).read_text()}
    return Repository(tmp_path, {"MLFLOW_TRACKING_URI": registry}, secrets)


def _hotspare(*arguments: str, cwd: Path) -> str:
    command = [str(Path(sys.executable).parent / "hotspare"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout


def _accepted(release: Path, policy: Path, room: Path) -> dict[str, int]:
    """Unpack what was published as a node would; return the place of each model's channel."""
    room.mkdir()
    for archive in sorted(release.glob("*.tar.zst")):
        subprocess.run(["tar", "--zstd", "-xf", archive, "-C", room], check=True)
    for model in MODELS:
        for role in ("primary", "backup"):
            channel = str(room / f"{model}-channel")
            (bundle,) = room.glob(f"{model}-{role}-*")
            _hotspare("verify", str(bundle), "--trust", str(policy), "--channel", channel, cwd=room)
    return {model: json.loads((room / f"{model}-channel/channel.json").read_text())["seq"] for model in MODELS}


def test_a_tag_becomes_a_release_whose_channels_nodes_accept_and_so_does_the_next_one_under_another_key(
    repository: Repository, keys: Mapping[str, Path], tmp_path: Path
) -> None:
    first = repository.release("v1.0.0")
    policy = tmp_path / "v1.0.0-build/artifacts/trust.yaml"
    assert _accepted(first, policy, tmp_path / "node") == dict.fromkeys(MODELS, 1)
    assert (first / "SHA256SUMS").is_file()
    assert not (tmp_path / "v1.0.0-build/artifacts/keys" / PRIVATE_KEY).exists()

    repository.play("promote", "v1.0.0")  # as after a network that broke: nothing is signed twice
    repository.play("channels", "v1.0.0")
    assert _accepted(first, policy, tmp_path / "again") == dict.fromkeys(MODELS, 1)

    both = tmp_path / "both.yaml"
    shutil.copy(policy, both)
    _hotspare("keys", "pin", str(keys["next"]), "--trust", str(both), "--name", "next", cwd=tmp_path)
    repository.variables["HOTSPARE_TRUST"] = both.read_text()
    repository.secrets[SIGNING_KEY] = (keys["next"] / PRIVATE_KEY).read_text()
    second = repository.release("v2.0.0")
    # The pairs did not change, so what is in force stays: `hotspare promote --renew` signs it anew.
    assert _accepted(second, both, tmp_path / "later") == dict.fromkeys(MODELS, 1)
    for bundle in [*(tmp_path / "later").glob("*-primary-*"), *(tmp_path / "later").glob("*-backup-*")]:
        told = json.loads(_hotspare("verify", str(bundle), "--trust", str(both), "--json", cwd=tmp_path))
        assert told["signed_by"] == key_hint(load_private_key(keys["next"]).public_key())
