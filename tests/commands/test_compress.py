"""``hotspare compress``: one command from a model and its rows to a chosen pair, on small real models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rows import tiny_rows

from pipeline.cli import main
from pipeline.commands.build.console import show_table
from pipeline.core.errors import UsageError
from pipeline.core.names import Format, Role
from pipeline.engines.open import open_session

ROWS = 2000


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savez("rows.npz", **tiny_rows(ROWS, seed=3))
    return tmp_path


Run = Callable[..., int]


@pytest.fixture
def compress(place: Path, fixture_models: Path) -> Run:
    def run(*more: str, model: str | Path = "tiny_dense.tflite", data: str = "rows.npz") -> int:
        words = ["compress", str(fixture_models / model), "--data", data, "--out", "out", "--max-loss", "0.05"]
        return main([*words, "--seconds", "20", "--workers", "1", "--json", *more])

    return run


def summary(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny_dense.tflite", "tiny_dense.onnx"])
def test_it_names_every_candidate_with_its_file_and_the_pair_with_its_reasons(compress, capsys, model) -> None:
    assert compress("--metric", "accuracy", model=model) == 0
    found = summary(capsys)
    assert found["metric"] == "accuracy"
    assert {item["format"] for item in found["candidates"]} == {Path(model).suffix[1:]}
    rows = tiny_rows(5, seed=1)["x"]
    for item in found["candidates"]:
        data = Path(item["path"]).read_bytes()
        assert len(data) == item["size"]["bytes"]
        assert 0 < sum(operator["bytes"] for operator in item["operators"]) < len(data)
        session = open_session(Format(item["format"]), data)
        assert session.run({session.inputs[0].name: rows})[session.outputs[0].name].shape == (5, 1)
    for role in Role:
        chosen = found["selection"][role.value]
        assert Path(chosen["path"]).is_file()
        assert chosen["reasons"]
    sizes = {item["candidate"]: item["size"]["bytes"] for item in found["candidates"]}
    backup = found["selection"]["backup"]["candidate"]
    assert sizes[backup] < sizes["dense.f32" + (".onnx" if model.endswith("onnx") else "")]
    assert "<svg" in Path("out/report.html").read_text()
    assert json.loads(Path("out/compress.json").read_text()) == found
    assert sorted(path.name for path in Path().iterdir()) == ["out", "rows.npz"]


@pytest.mark.slow
def test_rows_without_labels_are_judged_by_fidelity_to_the_float_model(compress, capsys) -> None:
    np.savez("x.npz", x=tiny_rows(ROWS, seed=3)["x"])
    assert compress("--metric", "accuracy", data="x.npz") == 0
    found = summary(capsys)
    assert found["metric"] == "fidelity"
    assert "holds no labels" in found["notes"][0]
    assert found["selection"]["backup"]["locked_test"]["value"] > 0.9


@pytest.mark.slow
def test_equal_wishes_give_equal_files(compress, capsys) -> None:
    assert compress("--metric", "accuracy") == 0
    summary(capsys)
    first = files()
    assert compress("--metric", "accuracy") == 0
    assert files() == first


def files() -> dict[str, bytes]:
    """Return every candidate and their record; the search's own record holds measured times."""
    return {path.name: path.read_bytes() for path in Path("out/candidates").iterdir() if path.name != "search.json"}


@pytest.mark.slow
def test_with_a_key_the_pair_is_sealed_and_verifies(compress, capsys) -> None:
    assert main(["keys", "new", "keys"]) == 0
    capsys.readouterr()
    assert compress("--metric", "accuracy", "--key", "keys", "--name", "tiny") == 0
    bundles = summary(capsys)["bundles"]
    public = Path("keys/signing.pub").read_text().replace("\n", "\n      ")
    Path("trust.yaml").write_text(
        "schema_version: 1\nkeys:\n  main:\n    uses: [bundle]\n    public_key: |\n      "
        + public.rstrip()
        + "\nmodels: [tiny]\nstate_dir: state\n"
    )
    for bundle in bundles.values():
        assert main(["verify", bundle["path"], "--trust", "trust.yaml"]) == 0


def bent(**changes) -> dict[str, np.ndarray]:
    return {name: array for name, array in {**tiny_rows(ROWS, seed=3), **changes}.items() if array is not None}


def with_nan() -> np.ndarray:
    rows = tiny_rows(ROWS, seed=3)["x"]
    rows[7, 2] = np.nan
    return rows


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"x": with_nan()}, 11, "NaN"),
        ({"x": np.ones((ROWS, 3), np.float32)}, 11, "shape"),
        ({"y": np.full(ROWS, 7)}, 11, "labels"),
        ({"y": np.ones(ROWS - 1)}, 11, "row counts"),
        ({"x": np.ones((0, 8), np.float32), "y": np.ones(0)}, 11, "rows"),
        ({"x": None, "other": np.ones((ROWS, 8), np.float32)}, 11, "features"),
    ],
    ids=["nan", "shape", "labels", "counts", "zero", "name"],
)
def test_rows_that_cannot_be_used_get_one_sentence_and_nothing_is_written(compress, capsys, changes, code, words):
    np.savez("bent.npz", **bent(**changes))
    assert compress("--metric", "accuracy", data="bent.npz") == code
    _check_refusal(capsys, words)


def _check_refusal(capsys, words: str) -> None:
    said = capsys.readouterr().err
    assert words in said
    assert said.startswith("hotspare compress: ")
    assert "Traceback" not in said
    assert ".work" not in said
    assert {path.name for path in Path().iterdir()} <= {"rows.npz", "bent.npz", "broken.tflite", "out"}
    assert not (Path("out") / "compress.json").exists()


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"TFL3" * 16], ids=["empty", "zeros", "magic"])
def test_a_corrupt_model_file_gets_one_sentence(compress, place, capsys, content) -> None:
    (place / "broken.tflite").write_bytes(content)
    assert compress("--metric", "accuracy", model=place / "broken.tflite") == 12
    _check_refusal(capsys, "broken.tflite")


def test_a_truncated_model_file_gets_one_sentence(compress, place, fixture_models, capsys) -> None:
    (place / "broken.tflite").write_bytes((fixture_models / "tiny_dense.tflite").read_bytes()[:3000])
    assert compress("--metric", "accuracy", model=place / "broken.tflite") == 12
    _check_refusal(capsys, "broken.tflite")


def test_a_folder_that_holds_something_else_is_never_overwritten(compress, place, capsys) -> None:
    (place / "out").mkdir()
    (place / "out" / "mine.txt").write_text("mine")
    assert compress("--metric", "accuracy") == 2
    _check_refusal(capsys, "another folder")
    assert (place / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--max-loss", "-1"], 2, "loss_max_abs"),
        (["--confidence", "2"], 2, "confidence"),
        (["--variants", "p51x"], 2, "variants"),
        (["--formats", "onnx"], 2, "onnx"),
        (["--columns", "x"], 2, "--columns"),
        (["--diverse", "colour"], 2, "colour"),
        (["--slices", "nope"], 11, "--slices: rows.npz holds no 'nope'; it holds x, y."),
    ],
)
def test_a_wrong_argument_gets_one_sentence(compress, capsys, more, code, words) -> None:
    assert compress("--metric", "accuracy", *more) == code
    _check_refusal(capsys, words)


def test_a_folder_of_another_in_the_place_of_the_unfinished_work_is_kept(compress, place: Path, capsys) -> None:
    theirs = place / ".out.work" / "thesis.txt"
    theirs.parent.mkdir()
    theirs.write_text("years of work")
    assert compress() == UsageError.exit_code
    assert ".out.work is in the way" in capsys.readouterr().err
    assert theirs.read_text() == "years of work"


def test_a_link_in_the_place_of_the_unfinished_work_is_not_followed(compress, place: Path, capsys) -> None:
    (place / "elsewhere").mkdir()
    (place / ".out.work").symlink_to("elsewhere")
    assert compress() == UsageError.exit_code
    assert ".out.work is in the way" in capsys.readouterr().err
    assert list((place / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("inside", ["MODEL", "--data"])
def test_what_is_read_must_not_lie_in_the_folder_that_is_replaced(
    compress, place: Path, fixture_models: Path, capsys, inside: str
) -> None:
    out = place / "out"
    out.mkdir()
    (out / "compress.json").write_text("{}")
    model = shutil.copy(fixture_models / "tiny_dense.tflite", out) if inside == "MODEL" else "tiny_dense.tflite"
    data = shutil.copy("rows.npz", out) if inside == "--data" else "rows.npz"
    assert compress(model=model, data=str(data)) == UsageError.exit_code
    assert f"{inside} " in capsys.readouterr().err
    assert len(list(out.iterdir())) == 2


def test_names_in_a_table_are_no_markup(capsys) -> None:
    show_table("a[/b]", ["[red]c"], [["x[/y]"]])
    shown = capsys.readouterr().out
    assert "a[/b]" in shown
    assert "x[/y]" in shown


@pytest.mark.parametrize(
    ("option", "value"),
    [("--workers", "0"), ("--seed", "-1"), ("--seconds", "nan"), ("--max-loss", "inf"), ("--threshold", "nan")],
)
def test_a_number_that_cannot_be_used_is_refused_before_any_work(compress, place: Path, capsys, option, value) -> None:
    assert compress(option, value) == UsageError.exit_code
    assert f"{option} " in capsys.readouterr().err
    assert [path.name for path in place.iterdir()] == ["rows.npz"]
