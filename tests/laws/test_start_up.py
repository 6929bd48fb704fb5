"""Laws about start-up: what a command must not load (benchmarks/start_up.py times it), nor who collects the tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAVY = {
    "ai_edge_litert", "dvc", "jinja2", "keras", "matplotlib", "mlflow", "model_signing", "numpy", "onnx", "onnxruntime",
    "pandas", "pydantic", "ray", "requests", "rich", "scipy", "sigstore", "sklearn", "tensorflow", "tf_keras",
}  # fmt: skip
_PROBE = """
import json, sys
from pipeline.cli import main
code = main({arguments!r})
print(json.dumps([code, sorted(sys.modules)]))
"""


def _loaded(arguments: list[str]) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(arguments=arguments)], capture_output=True, text=True, check=True
    )
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, {name.split(".")[0] for name in modules}


def test_help_loads_no_command() -> None:
    code, modules = _loaded(["--help"])
    assert code == 0
    assert modules & HEAVY == set()


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_a_wrong_command_line_loads_nothing_and_says_so(arguments: list[str]) -> None:
    code, modules = _loaded(arguments)
    assert code == 2
    assert modules & HEAVY == set()


def test_refusing_a_bundle_loads_no_engine_and_no_build_package() -> None:
    code, modules = _loaded(["verify", "no-such-bundle", "--trust", "no-such-policy.yaml"])
    assert code == 14
    assert modules & HEAVY == set()


def test_staging_from_a_folder_or_a_web_server_loads_no_engine_and_no_object_store() -> None:
    code, modules = _loaded(
        ["stage", "http://127.0.0.1:9/depot/channels/credit", "--trust", "no-such-policy.yaml", "--to", "x"]
    )
    assert code == 14
    assert modules & {*HEAVY, "aiobotocore", "fsspec", "s3fs"} <= {"numpy"}


@pytest.mark.slow
def test_collecting_the_tests_loads_nothing_that_most_of_them_do_without() -> None:
    """Every process of a run collects all of them; MLflow reads its settings when it is imported."""
    probe = (
        "import json, sys, pytest\n"
        "code = pytest.main(['--collect-only', '-qq', '-p', 'no:cacheprovider'])\n"
        "print()\n"
        "print(json.dumps([int(code), sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    heavy = {"dvc", "keras", "mlflow", "moto", "pandas", "ray", "schemathesis", "sklearn", "tensorflow", "tf_keras"}
    assert {name.split(".")[0] for name in modules} & heavy == set()
