"""A real project of a user's own, scaffolded and reproduced with the real commands."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENT_DRILLS
from rows import tiny_rows

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def shell() -> Shell:
    binaries = Path(sys.executable).parent

    def run(command: Sequence[str], cwd: Path, check: bool = True) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(list(command), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
        if check and done.returncode:
            pytest.fail(f"{' '.join(command)} exited {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done

    return run


@pytest.fixture
def project(tmp_path: Path, shell: Shell, fixture_models: Path) -> Path:
    """A scaffolded project with a key, before any stage ran."""
    np.savez(tmp_path / "rows.npz", **tiny_rows(4000, seed=1))
    source = fixture_models / "tiny_dense.tflite"
    arguments = [
        "--model",
        "tiny",
        "--source",
        str(source),
        "--data",
        "rows.npz",
        "--metric",
        "auc",
        "--max-loss",
        "0.02",
    ]
    shell(["hotspare", "init", "project", *arguments], tmp_path)
    folder = tmp_path / "project"
    recipe = folder / "recipes/models/tiny.yaml"
    text = recipe.read_text()
    assert "drills: [kill, " in text
    recipe.write_text(re.sub(r"drills: \[.*?\]", "drills: [kill]", text))  # one shows what the stage does
    shell(["bash", "-euc", PATIENT_DRILLS], folder)
    shell(["hotspare", "keys", "new", "artifacts/keys", "--trust", "artifacts/trust.yaml"], folder)
    return folder
