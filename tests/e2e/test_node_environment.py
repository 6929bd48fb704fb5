"""The base install alone: what a node has."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

_SIZE_BYTES_MAX = 250 * 10**6


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A virtual environment with the locked base packages and the wheel, as `pip install .` leaves it."""
    folder = tmp_path_factory.mktemp("node")
    uv = [str(Path(sys.executable).parent / "uv"), "--quiet"]
    # pip compiles what it installs, so that is counted too.
    install = [*uv, "pip", "install", "--compile-bytecode", "--python", str(folder / "venv/bin/python")]
    for command in (
        [*uv, "venv", "--python", sys.executable, str(folder / "venv")],
        [*install, "--require-hashes", "-r", "locks/node.lock"],
        [
            *uv,
            "build",
            "--wheel",
            "--no-build-isolation",
            "--python",
            sys.executable,
            "--out-dir",
            str(folder),
            str(root),
        ],
    ):
        subprocess.run(command, cwd=root, check=True)
    wheel = next(folder.glob("hotspare-*.whl"))
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    return folder / "venv"


def _hotspare(node: Path, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": f"{node / 'bin'}:/usr/bin:/bin", "HOME": str(cwd)}
    command = [str(node / "bin/hotspare"), *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_base_install_is_small_and_has_nothing_of_the_build_side(node: Path) -> None:
    files = [path for path in node.rglob("*") if path.is_file() and not path.is_symlink()]
    size_bytes = sum(path.stat().st_size for path in files)
    print(f"{size_bytes / 1e6:.0f} MB")
    assert size_bytes <= _SIZE_BYTES_MAX
    packages = {path.name.split("-")[0].lower() for path in node.rglob("*.dist-info")}
    assert (
        packages & {"tensorflow", "keras", "mlflow", "dvc", "model_signing", "ray", "pandas", "scikit_learn"} == set()
    )


def test_verify_inspect_and_run_work_with_the_base_install_alone(
    node: Path, project: Path, shell, tmp_path: Path
) -> None:
    shell(["dvc", "repro", "pack"], project)
    shutil.copytree(project / "artifacts/bundles/tiny-backup", tmp_path / "copied")
    shutil.copy(project / "artifacts/trust.yaml", tmp_path / "trust.yaml")
    rows = np.load(project / "data/tiny/test.npz")
    np.savez(tmp_path / "inputs.npz", features=rows["x"])

    assert _hotspare(node, "verify", "copied", "--trust", "trust.yaml", cwd=tmp_path).returncode == 0
    assert "tiny" in _hotspare(node, "inspect", "copied", cwd=tmp_path).stdout
    arguments = ["run", "copied", "--trust", "trust.yaml", "--input", "inputs.npz", "--output", "outputs.npz"]
    done = _hotspare(node, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = np.load(tmp_path / "outputs.npz")["probability"]
    assert answers.shape == (len(rows["y"]), 1)
    assert np.mean((answers[:, 0] > 0.5) == rows["y"]) > 0.8


def test_the_doctor_finds_a_node_well_and_tells_which_extras_it_lacks(node: Path, tmp_path: Path) -> None:
    done = _hotspare(node, "doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {one["what"]: one for one in json.loads(done.stdout)["installation"]}
    assert found["base install"]["word"] == found["engine LiteRT"]["word"] == "pass"
    assert "pip install 'hotspare[build]'" in found["extra build"]["text"]


def test_a_build_command_on_a_node_says_which_extra_it_needs(node: Path, tmp_path: Path) -> None:
    done = _hotspare(node, "register", cwd=tmp_path)
    assert done.returncode == 42
    assert "hotspare[build" in done.stderr
    assert "Traceback" not in done.stderr


def test_node_commands_run_from_any_folder_without_a_home(node: Path, tmp_path: Path) -> None:
    command = [str(node / "bin/hotspare"), "verify", "x", "--trust", "y"]
    done = subprocess.run(command, cwd=os.sep, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 14
    assert done.stderr.count("\n") == 1
