"""Models of many kinds, in every form that both Kerases save, against their own answers before they were saved."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parent / "keras_matrix.py"
# Of Keras 2 the kinds whose layers differ from Keras 3's; each costs seconds to convert.
MODELS = {
    "3": ("images", "signals", "autoencoder", "table", "tokens", "bag", "two_inputs", "two_outputs", "attention"),
    "2": ("images", "recurrent", "two_inputs", "two_outputs"),
}


@pytest.fixture(scope="session")
def matrix(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, Path]:
    """Return the folder of each Keras; made once a test run, whichever worker comes first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return {which: _made(which, shared / f"keras-matrix-{which}", root) for which in MODELS}


def _made(which: str, folder: Path, root: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "report.json").exists():
            command = [sys.executable, str(DRIVER), which, str(folder), *MODELS[which]]
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr[-3000:]
    return folder


def tries(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "report.json").read_text())
    return found


def arrays(path: Path) -> dict[str, Array]:
    with np.load(path) as archive:
        return dict(archive)


@pytest.mark.parametrize("which", MODELS)
def test_every_export_answers_as_the_model_did_before_it_was_saved(matrix: dict[str, Path], which: str) -> None:
    folder, compared = matrix[which], 0
    for said in tries(folder):
        rows = arrays(folder / f"{said['model']}.rows.npz")
        wanted = arrays(folder / f"{said['model']}.answers.npz")
        for model_format in said["exports"]:
            place = folder / said["model"] / said["form"].partition("#")[0] / f"model.{model_format}"
            assert place.exists(), said
            found = open_session(Format(model_format), place.read_bytes()).run(rows)
            _require_equal(found, wanted, f"{said['model']} {said['form']} {model_format}")
            compared += 1
    assert compared >= 2 * len(MODELS[which])


def _require_equal(found: dict[str, Array], wanted: dict[str, Array], what: str) -> None:
    """Compare by name; Keras 3's own SavedModels call the outputs output_0, output_1 … in the model's order."""
    names = {f"output_{index}": name for index, name in enumerate(wanted)} if "output_0" in found else {}
    found = {names.get(name, name): values for name, values in found.items()}
    assert sorted(found) == sorted(wanted), what
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-5, err_msg=f"{what} {name}")


def test_names_are_those_of_the_keras_layers(matrix: dict[str, Path]) -> None:
    for which, folder in matrix.items():
        session = open_session(Format.ONNX, (folder / "two_outputs/keras/model.onnx").read_bytes())
        assert [spec.name for spec in session.inputs] == ["z_in"], which
        assert [spec.name for spec in session.outputs] == ["alpha", "mike", "zulu"], which


def test_what_each_form_is_was_told(matrix: dict[str, Path]) -> None:
    told = {which: {said["form"]: said["described"] for said in tries(folder) if "described" in said}
            for which, folder in matrix.items()}  # fmt: skip
    assert told["3"]["keras"] == "Keras 3 (.keras)"
    assert told["3"]["h5"] == "Keras 3 (.h5)"
    assert told["2"] == {"keras": "Keras 2 (.keras)", "h5": "Keras 2 (.h5)", "saved": "SavedModel of Keras 2"}
    tunable = [said for said in tries(matrix["2"]) if said["form"] == "saved"]
    assert all(said["keras_model"] for said in tunable)


def test_a_signature_is_named_where_there_are_several(matrix: dict[str, Path]) -> None:
    by_form = {said["form"]: said for said in tries(matrix["3"]) if said["model"] == "module"}
    assert by_form["saved#both"]["exports"] == {"tflite": 0.0, "onnx": 0.0}
    assert "has the signatures both, half" in by_form["saved"]["error"]


def test_an_h5_file_that_keras_3_itself_cannot_load_is_refused_beforehand(matrix: dict[str, Path]) -> None:
    refused = [said for said in tries(matrix["3"]) if "error" in said and said["model"] != "module"]
    assert [(said["model"], said["form"]) for said in refused] == [("tokens", "h5")]
    assert "'NotEqual'" in refused[0]["error"]
