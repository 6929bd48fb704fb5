import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.compress import candidates as room
from pipeline.compress.candidates import make_candidates
from pipeline.compress.schemes.coverage import Coverage
from pipeline.compress.variants import make_variant
from pipeline.core.errors import DataError, MissingStageError, SchemeRefused
from pipeline.core.recipe import load_recipe
from pipeline.core.records import Candidates, read_record

Project = Callable[..., Path]


def pruned(project: Project, **changes: object) -> Path:
    folder = project(**changes)
    make_variant(load_recipe("tiny"), "dense", print)
    return folder


def files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_scheme_of_the_recipe_is_written_with_its_record(project: Project) -> None:
    folder = pruned(project) / "artifacts" / "candidates" / "tiny"
    made = make_candidates(load_recipe("tiny"))
    assert not made.refused
    assert [str(item.name) for item in made.candidates] == [
        "dense.f16", "dense.f32", "dense.w8", "dense.w8a8", "dense.w8d",
    ]  # fmt: skip
    assert read_record(Candidates, folder / "candidates.json", "quantize tiny") == made
    digests = files(folder)
    assert all(digests[item.file] == item.sha256 for item in made.candidates)
    reference = (folder / "dense.f32.tflite").read_bytes()
    assert reference == Path("artifacts/variants/tiny/dense/model.tflite").read_bytes()
    assert {item.parent_sha256 for item in made.candidates} == {hashlib.sha256(reference).hexdigest()}


def test_onnx_source_gives_onnx_candidates(project: Project) -> None:
    pruned(project, source="tiny_dense.onnx", source_format="onnx", schemes={"onnx": ["f32", "f16", "w8d", "w8a8"]})
    made = make_candidates(load_recipe("tiny"))
    assert len(made.candidates) == 4
    assert not made.refused


def test_two_runs_give_the_same_bytes(project: Project) -> None:
    folder = pruned(project) / "artifacts" / "candidates" / "tiny"
    make_candidates(load_recipe("tiny"))
    first = files(folder)
    make_candidates(load_recipe("tiny"))
    assert files(folder) == first


def test_scheme_that_does_not_exist_is_refused_by_name_and_the_others_are_made(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned(project, source="tiny_dense.onnx", source_format="onnx", schemes={"onnx": ["f32", "w8a16", "w8d"]})
    assert main(["quantize", "tiny"]) == 0
    assert "refused dense.w8a16.onnx: w8a16 is made for tflite alone" in capsys.readouterr().out
    assert main(["quantize", "tiny", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [item["candidate"] for item in record["refused"]] == ["dense.w8a16.onnx"]


def test_too_few_candidates_list_every_reason(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    pruned(project)
    monkeypatch.setattr(room, "coverage", lambda *_: Coverage(10, 20.0, 0.1, 0.0))
    with pytest.raises(SchemeRefused) as refusal:
        make_candidates(load_recipe("tiny"))
    assert len(refusal.value.reasons) == 4
    assert not Path("artifacts/candidates").exists()


def test_calibration_with_nan_rows_is_a_data_error(project: Project) -> None:
    folder = pruned(project)
    features = np.zeros((10, 8), np.float32)
    features[3] = np.nan
    np.savez(folder / "data" / "calibration.npz", features=features, y=np.zeros(10))
    with pytest.raises(DataError, match="row"):
        make_candidates(load_recipe("tiny"))


def test_whole_numbers_are_taken_for_floats_but_fractions_are_not_cut_to_ids(project: Project) -> None:
    folder = pruned(project)
    np.savez(folder / "data" / "calibration.npz", features=np.ones((10, 8), np.int64), y=np.zeros(10))
    assert make_candidates(load_recipe("tiny")).candidates
    ids = {"user": np.array([[1.5]]), "item": np.array([[2.0]])}
    path = folder / "ids.npz"
    np.savez(path, **ids)
    with pytest.raises(DataError, match="float64 where the model takes int32"):
        room.session_batches(
            room.open_session(room.Format.TFLITE, _model("tiny_embedding.tflite")), path, 10
        ).__next__()


def _model(name: str) -> bytes:
    return (Path(__file__).parents[1] / "fixtures" / "models" / name).read_bytes()


def test_without_variants_the_stage_to_run_is_named(project: Project) -> None:
    project()
    with pytest.raises(MissingStageError, match="hotspare prune tiny dense"):
        make_candidates(load_recipe("tiny"))


def test_export_that_changed_since_is_not_used(project: Project) -> None:
    folder = pruned(project)
    export = folder / "artifacts" / "variants" / "tiny" / "dense" / "model.tflite"
    export.write_bytes(export.read_bytes()[:-1] + b"\x01")
    with pytest.raises(MissingStageError, match="not what its record says"):
        make_candidates(load_recipe("tiny"))


KILLED = """
import os, signal
from pipeline.compress import candidates
write = candidates.write_atomic
def once(path, data):
    write(path, data)
    os.kill(os.getpid(), signal.SIGKILL)
candidates.write_atomic = once
from pipeline.cli import main
main(["quantize", "tiny"])
"""


@pytest.mark.slow
def test_kill_9_between_two_files_leaves_the_old_folder_and_the_next_run_ends_well(project: Project) -> None:
    folder = pruned(project) / "artifacts" / "candidates" / "tiny"
    make_candidates(load_recipe("tiny"))
    before = files(folder)
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False, env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert files(folder) == before
    make_candidates(load_recipe("tiny"))
    assert files(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
