"""Devices without LiteRT: tflite-runtime 2.14 and numpy 1 in an environment of their own run a sealed bundle."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sealed import Sealed, sealed, tiny_rows

from pipeline.engines.litert import open_litert

pytestmark = pytest.mark.slow

PACKAGES = ("tflite-runtime==2.14.0", "numpy<2", "cryptography", "pyyaml")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python 3.11 with tflite-runtime and no other engine."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip("tflite-runtime 2.14 has no wheels beyond Python 3.11")
    folder = tmp_path_factory.mktemp("device") / "venv"
    uv = Path(sys.executable).parent / "uv"
    python = folder / "bin/python"
    make = [[str(uv), "venv", "--quiet", "--python", sys.executable, str(folder)]]
    make.append([str(uv), "pip", "install", "--quiet", "--python", str(python), *PACKAGES])
    for command in make:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = f"tflite-runtime 2.14 cannot be installed here: {done.stderr.strip()[-300:]}"
            pytest.fail(reason) if "CI" in os.environ else pytest.skip(reason)
    return python


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("template"))


def hotspare(device: Path, root: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PYTHONPATH": str(root), "PATH": os.environ["PATH"]}
    command = [str(device), "-m", "pipeline.cli", *arguments]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)


def test_a_sealed_bundle_runs_and_agrees_with_litert(device: Path, pair: Sealed, root: Path) -> None:
    rows = tiny_rows(200)
    np.savez(pair.folder / "rows.npz", **rows)
    places = ["--input", str(pair.folder / "rows.npz"), "--output", str(pair.folder / "answers.npz")]
    channel = ["--channel", str(pair.channel), "--role", "backup"]
    done = hotspare(device, root, "run", str(pair.backup), "--trust", str(pair.trust), *channel, *places)
    assert done.returncode == 0, done.stderr
    answers = np.load(pair.folder / "answers.npz")["probability"]
    expected = open_litert((pair.backup / "payload/model/model.tflite").read_bytes()).run(rows)["probability"]
    np.testing.assert_allclose(answers, expected, atol=1e-5)


def test_a_bundle_for_an_engine_that_is_not_there_says_which_to_install(device: Path, pair: Sealed, root: Path) -> None:
    verified = hotspare(device, root, "verify", str(pair.primary), "--trust", str(pair.trust))
    assert verified.returncode == 0, verified.stderr
    assert "no engine for onnx is installed" in verified.stdout
    np.savez(pair.folder / "rows.npz", **tiny_rows(2))
    places = ["--input", str(pair.folder / "rows.npz"), "--output", str(pair.folder / "never.npz")]
    done = hotspare(device, root, "run", str(pair.primary), "--trust", str(pair.trust), *places)
    assert done.returncode == 42
    assert "onnxruntime" in done.stderr


def test_a_recurrent_model_keeps_no_state_between_calls(device: Path, root: Path) -> None:
    model = Path(__file__).parent / "models" / "tiny_lstm.tflite"
    script = (
        "import sys, numpy as np\n"
        "from pipeline.engines.open import open_session\n"
        "from pipeline.core.names import Format\n"
        "session = open_session(Format.TFLITE, open(sys.argv[1], 'rb').read())\n"
        "steps = {'steps': np.ones((2, 5, 3), np.float32)}\n"
        "first, second = session.run(steps), session.run(steps)\n"
        "assert all((first[name] == second[name]).all() for name in first)\n"
        "assert (first['dense'][0] == first['dense'][1]).all()\n"
    )
    done = subprocess.run(
        [str(device), "-c", script, str(model)],
        env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
