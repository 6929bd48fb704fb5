import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipeline.cli import main
from pipeline.compress import processes
from pipeline.compress import variants as room
from pipeline.compress.job import Step
from pipeline.compress.sources.source import KERAS_2, KERAS_3, SAVED_MODEL, kind_of_source, require_tunable
from pipeline.compress.variants import make_variant
from pipeline.core.errors import (
    DataError,
    InternalError,
    ModelError,
    RecipeError,
    SurroundingsError,
    VariantRefused,
)
from pipeline.core.names import Format
from pipeline.core.recipe import SourceFormat, load_recipe
from pipeline.core.records import VariantRecord, read_record

Project = Callable[..., Path]
FOLDER = Path("artifacts/variants/tiny/dense")


def make(variant: str = "dense") -> VariantRecord:
    return make_variant(load_recipe("tiny"), variant, print)


@pytest.mark.parametrize("source_format", ["tflite", "onnx"])
def test_ready_made_source_is_checked_and_copied(project: Project, source_format: str) -> None:
    name = f"tiny_dense.{source_format}"
    project(source=name, source_format=source_format, schemes={source_format: ["f32", "w8d"]})
    record = make()
    assert read_record(VariantRecord, FOLDER / "variant.json", "prune") == record
    export = next(iter(record.exports.values()))
    assert (FOLDER / export.file).read_bytes() == Path(name).read_bytes()
    assert (export.max_abs_diff, export.rows_checked) == (0.0, 256)


@pytest.mark.parametrize("source_format", ["tflite", "onnx"])
def test_ready_made_source_never_loads_tensorflow(project: Project, source_format: str) -> None:
    project(source=f"tiny_dense.{source_format}", source_format=source_format, schemes={source_format: ["f32", "w8d"]})
    code = (
        "import sys; from pipeline.cli import main; code = main(['prune', 'tiny', 'dense']);"
        " sys.exit(code or 'tensorflow' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_ready_made_source_cannot_be_pruned(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project(variants={"dense": {}, "p50": {}})
    assert main(["prune", "tiny", "p50"]) == VariantRefused.exit_code
    message = capsys.readouterr().err
    assert "p50 of tiny needs a Keras model" in message
    assert len(message.splitlines()) == 1


def test_ready_made_source_is_not_converted(project: Project) -> None:
    project(schemes={"tflite": ["f32", "w8"], "onnx": ["f32"]})
    with pytest.raises(VariantRefused, match="not converted to onnx"):
        make()


def test_variant_that_the_recipe_does_not_name(project: Project) -> None:
    project()
    with pytest.raises(RecipeError, match="has no variant 'p50'; it has dense"):
        make("p50")


def test_missing_source(project: Project) -> None:
    (project() / "tiny_dense.tflite").unlink()
    with pytest.raises(ModelError, match=r"tiny_dense\.tflite does not exist"):
        make()


@pytest.mark.parametrize("bytes_left", [0, 4, 3000])
def test_unreadable_source_leaves_the_old_folder(project: Project, bytes_left: int) -> None:
    source = project() / "tiny_dense.tflite"
    before = make()
    source.write_bytes(source.read_bytes()[:bytes_left])
    with pytest.raises(ModelError, match=r"tiny_dense\.tflite"):
        make()
    assert read_record(VariantRecord, FOLDER / "variant.json", "prune") == before


def test_validation_rows_of_another_width(project: Project) -> None:
    folder = project()
    np.savez(folder / "data" / "validation.npz", features=np.zeros((4, 7), np.float32), y=np.zeros(4))
    with pytest.raises(DataError, match="features"):
        make()


def _process(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a small script take the place of the training process."""
    start = subprocess.Popen

    def replaced(command: list[str], **options: object) -> object:
        return start([sys.executable, "-c", script, command[-1]], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", replaced)


@pytest.fixture
def keras_project(project: Project) -> Path:
    return project(source="tiny_dense.keras", source_format="keras", variants={"dense": {}, "p50": {}})


def test_steps_of_the_process_are_passed_on_and_its_chatter_is_not(
    keras_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """
print("2026-01-01 some library: hello")
print('{"doing": "epoch 1 of 1", "done": 3, "total": 9}')
print('{"exit_code": 23, "message": "p50 has collapsed."}')
raise SystemExit(23)"""
    _process(monkeypatch, script)
    steps: list[Step] = []
    with pytest.raises(VariantRefused, match=r"^p50 has collapsed\.$"):
        make_variant(load_recipe("tiny"), "p50", steps.append)
    assert steps == [Step("epoch 1 of 1", 3, 9)]
    assert not Path("artifacts").exists()


@pytest.mark.parametrize("kind", [ModelError, DataError, VariantRefused])
def test_errors_of_the_process_keep_their_kind(
    keras_project: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    code = kind.exit_code  # type: ignore[attr-defined]
    _process(monkeypatch, f"""print('{{"exit_code": {code}, "message": "so"}}'); raise SystemExit({code})""")
    with pytest.raises(kind, match=r"^so$"):
        make()


def test_killed_process_is_told_as_one(keras_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _process(monkeypatch, f"import os; os.kill(os.getpid(), {signal.SIGKILL.value})")
    with pytest.raises(SurroundingsError, match="signal 9"):
        make()


def test_crash_of_the_process_is_one_sentence(keras_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _process(monkeypatch, "raise RuntimeError('a bug')")
    with pytest.raises(InternalError, match="RuntimeError: a bug") as error:
        make()
    assert len(str(error.value).splitlines()) == 1


def test_file_that_is_no_keras_model(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_text("not a model")
    with pytest.raises(ModelError, match=r"neither a \.keras file nor an \.h5 file"):
        kind_of_source(path, SourceFormat.KERAS)


def test_folder_that_is_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no saved_model\.pb"):
        kind_of_source(tmp_path, SourceFormat.SAVEDMODEL)


@pytest.mark.parametrize(("version", "kind"), [("2.21.0", KERAS_2), ("3.15.1", KERAS_3)])
def test_keras_2_and_3_are_told_apart_by_what_the_file_says(tmp_path: Path, version: str, kind: str) -> None:
    zipped, hdf5 = tmp_path / "model.keras", tmp_path / "model.h5"
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("metadata.json", f'{{"keras_version": "{version}"}}')
    with h5py.File(hdf5, "w") as archive:
        archive.attrs["keras_version"] = version
    assert kind_of_source(zipped, SourceFormat.KERAS) == kind
    assert kind_of_source(hdf5, SourceFormat.KERAS) == kind


@pytest.mark.parametrize("metadata", ["{}", "[]", "not json", '{"keras_version": "4.0"}'])
def test_keras_file_that_does_not_say_its_version(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", metadata)
    with pytest.raises(ModelError, match=r"model\.keras"):
        kind_of_source(path, SourceFormat.KERAS)


def test_only_a_saved_model_without_keras_cannot_be_tuned(keras_project: Path) -> None:
    job = room._job(load_recipe("tiny"), "p50", (Format.TFLITE,), keras_project)
    with pytest.raises(VariantRefused, match=r"p50 needs a Keras model to fine-tune, and .* is a SavedModel"):
        require_tunable(job, SAVED_MODEL)
    require_tunable(job, KERAS_2)
    require_tunable(job, KERAS_3)


KILLED = """
import os, signal
from pipeline.compress import variants
variants.write_record = lambda path, record: os.kill(os.getpid(), signal.SIGKILL)
from pipeline.cli import main
main(["prune", "tiny", "dense"])
"""


@pytest.mark.slow
def test_kill_9_before_the_record_leaves_the_old_folder(project: Project) -> None:
    project()
    before = make()
    killed = subprocess.run([sys.executable, "-c", KILLED], check=False, env=os.environ, capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    assert read_record(VariantRecord, FOLDER / "variant.json", "prune") == before
    assert make() == before
    assert [path.name for path in FOLDER.parent.iterdir()] == ["dense"]


def test_training_inherits_no_signing_key(keras_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSPARE_SIGNING_KEY", "secret")
    script = """
import json, os
told = f"key {os.environ.get('HOTSPARE_SIGNING_KEY')}"
print(json.dumps({"exit_code": 23, "message": told}))
raise SystemExit(23)"""
    _process(monkeypatch, script)
    with pytest.raises(VariantRefused, match=r"^key None$"):
        make()


WORKER = """
import json, os, signal, sys
from pathlib import Path
cluster = json.loads(os.environ["TF_CONFIG"])
folder, word = Path(sys.argv[-1]).parent, Path(sys.argv[-1]).parent / "word"
try:
    os.mkfifo(word)
except FileExistsError:
    pass
if cluster["task"]["index"] == 1:
    with (folder / "attempts").open("a") as stream:
        stream.write(".")
    attempts = len((folder / "attempts").read_text())
    if attempts <= DEATHS:
        os.kill(os.getpid(), signal.SIGKILL)
    word.write_text(f"attempt {attempts} of {len(cluster['cluster']['worker'])}")
    sys.stdin.read()
print(json.dumps({"exit_code": 23, "message": word.read_text()}))
raise SystemExit(23)
"""


@pytest.mark.parametrize(
    ("deaths", "kind", "words"), [(2, VariantRefused, "^attempt 3 of 2$"), (9, SurroundingsError, "4 times")]
)
def test_a_dead_worker_ends_the_others_and_all_start_again_but_not_for_ever(
    project: Project, monkeypatch: pytest.MonkeyPatch, deaths: int, kind: type[Exception], words: str
) -> None:
    tuning = {"distribute": "multi_worker", "workers": 2}
    project(source="tiny_dense.keras", source_format="keras", variants={"dense": {}, "p50": tuning})
    _process(monkeypatch, WORKER.replace("DEATHS", str(deaths)))
    with pytest.raises(kind, match=words):
        make("p50")


def test_workers_that_hang_without_dying_are_ended(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    tuning = {"distribute": "multi_worker", "workers": 2}
    project(source="tiny_dense.keras", source_format="keras", variants={"dense": {}, "p50": tuning})
    monkeypatch.setattr(processes, "STALL_SECONDS_MAX", 0.05)
    _process(monkeypatch, "import sys; sys.stdin.read()")
    with pytest.raises(SurroundingsError, match="told of no progress for 0 minutes 4 times"):
        make("p50")
