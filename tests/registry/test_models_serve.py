"""``mlflow models serve`` on a promoted backup: MLflow's own scoring server answers as the bundle's model does."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from registry_server import await_answer, free_port
from toy_project import make_project

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.cli import main
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.names import Role
from pipeline.engines.open import open_session

pytestmark = pytest.mark.long


@pytest.fixture
def project(tmp_path: Path, store_template: Path) -> Path:
    """A project whose pair is promoted in MLflow."""
    root = tmp_path / "project"
    make_project(root, {"toy": 1})
    shutil.copytree(store_template / "mlflow" / "store", root / "mlflow" / "store")
    with contextlib.chdir(root):
        assert main(["register"]) == 0
    return root


def test_mlflow_models_serve_answers_as_the_bundles_model_does(project: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/toy@backup", "--env-manager", "local"]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{project}/mlflow/store/mlflow.db"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        await_answer(f"http://127.0.0.1:{port}/ping", server, log)
        rows = np.random.default_rng(3).normal(size=(5, 8)).astype(np.float32)
        answer = _ask(f"http://127.0.0.1:{port}/invocations", {"inputs": {"features": rows.tolist()}})
    finally:
        server.terminate()
        server.wait(30)
    probability = np.array(answer["predictions"]["probability"], np.float32)
    np.testing.assert_array_equal(probability, _bare(project, rows))


def _ask(url: str, body: object) -> dict[str, dict[str, object]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as reply:  # noqa: S310
        answer: dict[str, dict[str, object]] = json.load(reply)
    return answer


def _bare(project: Path, rows: np.ndarray) -> np.ndarray:
    with contextlib.chdir(project):
        policy = load_policy(layout.TRUST_POLICY)
        bundle = verify_bundle(layout.bundle_dir("toy", Role.BACKUP), policy, utc_now())
    entry = bundle.manifest.entrypoint
    return open_session(entry.format, bundle.files[entry.path]).run({"features": rows})["probability"]
