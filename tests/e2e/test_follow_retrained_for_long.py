"""A retrained model in a real project: its backup is rebuilt by real dvc, also when the follower is killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from following import StagedFiles
from sealed import Sealed
from serving import Service, Starter, starting, until

from pipeline.seal.keys import load_private_key

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
SECONDS_MAX = 900


def retrained(model: bytes, factor: float) -> bytes:
    """Return the same network with all weights of its largest layers a little larger."""
    words = np.frombuffer(model[: len(model) // 4 * 4], "<f4").copy()
    is_weight = np.isfinite(words) & (np.abs(words) > 1e-3) & (np.abs(words) < 4)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_weight.astype(np.int8), [0]])))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin >= 32:
            words[begin:end] *= factor
    changed = words.tobytes() + model[len(words) * 4 :]
    assert changed != model
    return changed


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    folder = tmp_path / "services"
    folder.mkdir()
    yield from starting(Sealed(folder, None), folder)  # type: ignore[arg-type]


@pytest.fixture
def promoted(project: Path, shell: Any) -> Path:
    """A project whose first build is promoted and published."""
    policy = project / "mlflow/promotion.yaml"
    policy.write_text(yaml.safe_dump({**yaml.safe_load(policy.read_text()), "depot": "depot"}))
    shell(["dvc", "repro"], project)
    return project


def _register(project: Path, factor: float) -> tuple[int, float]:
    """Register a trained model with MLflow's own client and make it the primary, as its trainer does.

    Returns its version, and when the alias had been moved.
    """
    source = project / yaml.safe_load((project / "recipes/models/tiny.yaml").read_text())["source"]["path"]
    trained = project / "training" / str(factor) / source.name
    trained.parent.mkdir(parents=True)
    trained.write_bytes(retrained(source.read_bytes(), factor))
    code = (
        "import time\n"
        "from mlflow import MlflowClient\n"
        f"client = MlflowClient('sqlite:///{project}/mlflow/store/mlflow.db', 'sqlite:///{project}/mlflow/store/mlflow.db')\n"
        f"run = client.create_run(client.create_experiment('training-{factor}')).info\n"
        f"client.log_artifact(run.run_id, '{trained}', 'model')\n"
        "version = client.create_model_version('tiny', f'{run.artifact_uri}/model', run.run_id)\n"
        "client.set_registered_model_alias('tiny', 'primary', version.version)\n"
        "print(version.version, time.time())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project / "training", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    version, moved_s = done.stdout.split()[-2:]
    return int(version), float(moved_s)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pipeline.cli", "follow", "tiny", "--once", "--json", *arguments]


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def _follow(project: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        _command(*arguments), cwd=project, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
    )
    assert done.returncode in (0, 27), done.stdout + done.stderr
    return {event["event"]: event for event in _events(done.stdout)}


@contextlib.contextmanager
def _followed(project: Path, *arguments: str) -> Iterator[Callable[[], dict[str, dict[str, Any]]]]:
    """Run a follower that has looked once, so that all is imported; yields what waits for the node and tells events."""
    command = [sys.executable, "-m", "pipeline.cli", "follow", "tiny", "--json", *arguments]
    log = project / "follow.log"
    with log.open("wb") as stream:
        follower = subprocess.Popen(command, cwd=project, stdout=stream, stderr=stream)

    def told() -> dict[str, dict[str, Any]]:
        return {event["event"]: event for event in _events(log.read_text())}

    def is_decided() -> bool:
        assert follower.poll() is None, log.read_text()
        assert "refused" not in told(), log.read_text()
        return "node ready" in told()

    def ready() -> dict[str, dict[str, Any]]:
        until(is_decided, SECONDS_MAX)
        return told()

    try:
        children = Path(f"/proc/{follower.pid}/task/{follower.pid}/children")
        until(children.read_text, SECONDS_MAX)  # the dvc that waits is started after the first look
        yield ready
    finally:
        follower.kill()
        follower.wait()


def _serve(project: Path, shell: Any, starter: Starter) -> Service:
    node = project / "node"
    node.mkdir()
    (node / "trust.yaml").write_bytes((project / "artifacts/trust.yaml").read_bytes())
    files = StagedFiles(node, load_private_key(project / "artifacts/keys", {}))
    where = ["depot/channels/tiny", "--trust", str(files.trust), "--to", str(node / "staged")]
    shell(["hotspare", "stage", *where], project)
    service = starter("--channel", str(files.channel), admin=True, files=files)
    service.until_whole()
    (project / "token").write_text(service.token)
    return service


def test_a_retrained_primary_is_on_the_node_little_later_than_its_stages_take(
    promoted: Path, shell: Any, starter: Starter
) -> None:
    service = _serve(promoted, shell, starter)
    url = f"http://127.0.0.1:{service.port}"
    where = ["depot/channels/tiny", "--trust", "node/trust.yaml", "--to", "node/staged"]
    watch = ["--watch", "--every", "0.2", "--swap", url, "--token-file", "token"]
    stage = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "stage", *where, *watch], cwd=promoted, stdout=subprocess.DEVNULL
    )
    try:
        with _followed(promoted, "--node", url) as ready_told:
            version, moved_s = _register(promoted, 1.01)
            told = ready_told()
    finally:
        stage.kill()
        stage.wait()
    assert told["alias moved"]["version"] == version
    kinds = {step["stage"].split("@")[0] for step in told["promoted"]["steps"]}
    assert {"quantize", "score", "select", "pack", "drill", "register"} <= kinds
    for step in told["promoted"]["steps"]:
        print(f"{step['stage']:<24} {step['seconds']:8.2f} s")
    ready = told["node ready"]
    took_s = datetime.fromisoformat(ready["at"]).timestamp() - moved_s
    ratio = took_s / ready["stages_s"]
    print(f"stages {ready['stages_s']} s, from the alias to the node {took_s:.1f} s: {ratio:.3f}")
    print(f"from when the move was seen {ready['lag_s']} s: {ready['lag_per_stages']}")


def test_a_follower_killed_in_the_middle_of_a_stage_goes_on_where_it_was(promoted: Path) -> None:
    _register(promoted, 1.02)
    killed_in = []
    for stage in ("prune", "quantize", "drill"):
        running = subprocess.Popen(_command(), cwd=promoted, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert running.stdout is not None
        for line in running.stdout:
            if f'"stage": "{stage}@' in line:
                killed_in.append(stage)
                time.sleep(0.3)
                break
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    told = _follow(promoted)
    assert killed_in == ["prune", "quantize", "drill"]
    ran = [step["stage"] for step in told["promoted"]["steps"]]
    assert not [name for name in ran if name.startswith(("prune", "quantize", "score", "select", "pack"))]
    assert any(name.startswith("drill") for name in ran)
    print(f"killed in {killed_in}; the last run had left: {ran}")
