"""``hotspare init``: what no stage could use is refused before anything is written."""

import json
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from rows import tiny_rows

from pipeline.cli import main
from pipeline.commands.build import init
from pipeline.core.recipe import load_recipe

ROWS = 240


@pytest.fixture
def begin(tmp_path: Path, monkeypatch, fixture_models: Path):
    """Run ``init`` on a tiny model and rows that differ from good ones; a change to None leaves an array out."""
    monkeypatch.chdir(tmp_path)

    def run(*more: str, source: Path = fixture_models / "tiny_dense.tflite", folder: str = "project", **changes) -> int:
        rows = {**tiny_rows(ROWS, seed=1), **changes}
        np.savez("rows.npz", **{name: array for name, array in rows.items() if array is not None})
        return main(["init", folder, "--model", "tiny", "--source", str(source), "--data", "rows.npz", *more])

    return run


def with_nan() -> np.ndarray:
    rows = tiny_rows(ROWS, seed=1)["x"]
    rows[7, 2] = np.nan
    return rows


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": None}, "add the key 'y'"),
        ({"y": np.ones((ROWS, 2))}, "y has shape (n, 2)"),
        ({"y": np.array(["a"] * ROWS)}, "not numbers"),
        ({"y": np.ones(ROWS - 1)}, "different row counts"),
        ({"x": with_nan()}, "the first is row 7"),
        ({"x": np.ones((ROWS, 3), np.float32)}, "takes (n, 8)"),
        ({"x": None, "other": np.ones((ROWS, 8))}, "'features'"),
        ({"x": np.ones((10, 8), np.float32), "y": np.ones(10)}, "too few"),
        ({"note": np.float32(3)}, "note has no rows axis"),
    ],
)
def test_rows_that_no_stage_could_use_are_refused_in_one_sentence(begin, capsys, changes, words: str) -> None:
    assert begin(**changes) == 11
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not Path("project").exists()


@pytest.mark.parametrize(
    ("metric", "labels", "words"),
    [
        ("auc", np.ones(ROWS), "the labels hold one only"),
        ("auc", np.arange(ROWS) % 2 + 1, "are others, such as 2"),
        ("auc", np.arange(ROWS) == 5, "one"),
        ("accuracy", np.ones(ROWS), "one class only"),
    ],
)
def test_labels_that_can_judge_no_model_are_refused_before_any_stage(begin, capsys, metric, labels, words) -> None:
    assert begin("--metric", metric, y=labels) == 11
    said = capsys.readouterr().err
    assert words in said
    assert "rows.npz, the validation rows: " in said
    assert said.count("\n") == 1
    assert not Path("project").exists()


def test_a_ranking_needs_its_lists(begin, capsys) -> None:
    assert begin("--metric", "ndcg_at_10") == 11
    assert "add the key 'group'" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["2.15.0", "3.4.1"])
def test_a_keras_model_is_offered_a_smaller_form_of_itself(
    begin, tmp_path: Path, monkeypatch, fixture_models: Path, version: str
) -> None:
    monkeypatch.setattr(init, "_init_repositories", lambda _: None)
    source = tmp_path / "model.keras"
    with zipfile.ZipFile(fixture_models / "tiny_dense.keras") as old, zipfile.ZipFile(source, "w") as archive:
        for name in ("config.json", "model.weights.h5"):
            archive.writestr(name, old.read(name))
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
    assert begin(source=source) == 0
    monkeypatch.chdir("project")
    assert sorted(load_recipe("tiny").variants) == ["dense", "p50s"]


@pytest.mark.parametrize("suffix", ["tflite", "onnx", "keras", "h5"])
def test_a_model_that_cannot_be_loaded_is_refused_by_name(begin, tmp_path: Path, capsys, suffix: str) -> None:
    source = tmp_path / f"broken.{suffix}"
    source.write_bytes(b"????TFL3" + bytes(100))
    assert begin(source=source) == 12
    assert f"broken.{suffix}" in capsys.readouterr().err
    assert not Path("project").exists()


def test_a_folder_that_is_no_saved_model_is_refused(begin, tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    assert begin(source=tmp_path / "empty") == 12
    assert "saved_model.pb" in capsys.readouterr().err


def test_a_project_inside_the_model_that_it_copies_is_refused(begin, tmp_path: Path, capsys) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    assert begin(source=tmp_path) == 2
    assert "copied into itself" in capsys.readouterr().err
    assert not Path("project").exists()


@pytest.mark.parametrize(("option", "value"), [("--max-loss", "-1"), ("--max-loss", "nan"), ("--seed", "-1")])
def test_a_value_that_no_recipe_may_hold_is_a_wrong_argument(begin, option: str, value: str) -> None:
    assert begin(option, value) == 2
    assert not Path("project").exists()


def test_a_table_with_a_column_map_becomes_the_same_splits_as_arrays(begin, monkeypatch) -> None:
    monkeypatch.setattr(init, "_init_repositories", lambda _: None)
    rows = tiny_rows(ROWS, seed=1)
    header = ",".join([f"f{index}" for index in range(8)] + ["label"])
    table = np.column_stack([rows["x"], rows["y"]])
    np.savetxt("rows.csv", table, delimiter=",", header=header, comments="", fmt="%.9g")
    columns = f"features={header.removesuffix(',label')};y=label"
    assert begin("--columns", columns, "--data", "rows.csv") == 0
    with np.load("project/data/tiny/train.npz") as written:
        assert written["features"].shape == (132, 8)
        assert np.isin(written["features"], rows["x"]).all()


def test_external_data_of_an_onnx_model_comes_along(begin, tmp_path: Path, fixture_models: Path, monkeypatch) -> None:
    monkeypatch.setattr(init, "_init_repositories", lambda _: None)
    source = tmp_path / "apart" / "net.bin"
    source.parent.mkdir()
    model = onnx.load(fixture_models / "tiny_dense.onnx")
    onnx.save(model, source, save_as_external_data=True, location="net.weights", size_threshold=0)
    assert begin(source=source) == 0
    assert Path("project/models/tiny/net.weights").read_bytes() == (source.parent / "net.weights").read_bytes()
    monkeypatch.chdir("project")
    assert load_recipe("tiny").source.path == "models/tiny/model.onnx"


def test_a_small_budget_reaches_the_recipe_as_it_was_given(begin, monkeypatch) -> None:
    monkeypatch.setattr(init, "_init_repositories", lambda _: None)
    assert begin("--max-loss", "0.000001") == 0
    monkeypatch.chdir("project")
    assert load_recipe("tiny").budgets.loss_max_abs == 1e-6


@pytest.mark.parametrize("is_new", [True, False])
def test_what_was_written_goes_away_when_the_end_fails(begin, monkeypatch, is_new: bool) -> None:
    if not is_new:
        Path("project").mkdir()
    monkeypatch.setattr(init, "_init_repositories", lambda _: init._call(["git", "no-such-command"], Path()))
    assert begin() == 43
    assert Path("project").exists() is not is_new
    assert is_new or not list(Path("project").iterdir())


def test_a_failure_of_dvc_is_told_by_the_line_that_says_why(begin, monkeypatch, capsys) -> None:
    said = "import sys; sys.exit('ERROR: no room\\n\\nHaving any troubles? Hit us up')"
    monkeypatch.setattr(init, "_init_repositories", lambda _: init._call([sys.executable, "-c", said], Path()))
    assert begin() == 43
    assert "(ERROR: no room)" in capsys.readouterr().err


def test_the_next_steps_can_be_pasted_whatever_the_folder_is_called(begin, monkeypatch, capsys) -> None:
    monkeypatch.setattr(init, "_init_repositories", lambda _: None)
    folder = "anna's models"
    assert begin(folder=folder) == 0
    assert f"cd {shlex.quote(folder)}\n" in capsys.readouterr().out


def test_git_is_asked_for_by_name(begin, monkeypatch, capsys) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert begin() == 42
    assert "git is not installed" in capsys.readouterr().err


@pytest.mark.slow
def test_inside_a_repository_the_project_joins_it(begin, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert begin() == 0
    assert not Path("project/.git").exists()
    assert Path("project/.dvc").is_dir()
