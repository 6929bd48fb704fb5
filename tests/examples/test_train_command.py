"""The train command around a stand-in for the training process: what is left behind when things go wrong."""

import io
import json
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pipeline import cli
from pipeline.commands.build import train
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import InternalError, MissingExtra, SurroundingsError
from pipeline.core.recipe import Metric
from pipeline.core.tensors import encode_npz
from pipeline.examples import process
from pipeline.examples.download import Source
from pipeline.examples.job import Job
from pipeline.examples.prepared import SPLITS, Example, Prepared

STAND_IN = """
import json, os, pathlib, sys
import numpy as np
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
{before}
out = pathlib.Path(job["out"])
labels = {{name: np.load(pathlib.Path(job["splits"]) / (name + ".npz"))["y"] for name in ("validation", "test")}}
(out / "model.keras").write_bytes(b"a model")
np.savez(out / "scores.npz", **{{name: y * {quality} for name, y in labels.items()}})
"""
WHAT_IS_WRITTEN = {"model.keras", "training.json", "train.npz", "calibration.npz", "validation.npz", "test.npz"}


def wheel() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("pkg/data"), b"12")
    return stream.getvalue()


def prepare(data: bytes, seed: int) -> Prepared:
    rows = int(data)
    split = {"features": np.full((rows, 2), seed, np.float32), "y": (np.arange(rows) % 2).astype(np.float32)}
    return Prepared(dict.fromkeys(SPLITS, split))


TOY = Example(Source("toy", "1.0", sha256_hex(wheel()), "pkg/data"), prepare, seed=3)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with the toy example cached, and a training process that the test writes."""
    cached = tmp_path / "cache" / "downloads" / f"{TOY.source.sha256}.whl"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(wheel())
    monkeypatch.setenv("HOTSPARE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(process, "_MODULE", "stand_in_training")
    monkeypatch.setitem(train.EXAMPLES, "toy", TOY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stand_in(project, before: str = "", quality: int = 1) -> None:
    (project / "stand_in_training.py").write_text(STAND_IN.format(before=before, quality=quality))


def trained(project) -> set[str]:
    return {path.name for path in (project / "artifacts" / "trained" / "toy").iterdir()}


def test_model_splits_and_figures_are_written_and_the_figures_printed(project, capsys):
    stand_in(project)
    assert cli.main(["train", "toy", "--json"]) == 0
    assert trained(project) == WHAT_IS_WRITTEN
    assert json.loads(capsys.readouterr().out) == {
        "model": "toy",
        "rows": {"train": 12, "calibration": 12, "validation": 12, "test": 12},
        "figures": {"validation": {"auc": 1.0}, "test": {"auc": 1.0}},
    }
    record = json.loads((project / "artifacts/trained/toy/training.json").read_text())
    assert record["data"] == "toy==1.0"


def test_people_get_a_table(project, capsys):
    stand_in(project, quality=-1)
    assert cli.main(["train", "toy"]) == 0
    assert "0.0000" in capsys.readouterr().out


@pytest.mark.slow
def test_two_runs_leave_equal_bytes(project):
    stand_in(project)
    runs = []
    for _ in range(2):
        cli.main(["train", "toy", "--json"])
        runs.append({path.name: path.read_bytes() for path in (project / "artifacts/trained/toy").iterdir()})
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("before", "exit_code", "said"),
    [
        ("raise RuntimeError('no learning today')", 70, "no learning today"),
        ("os.kill(os.getpid(), 9)", 40, "killed by signal 9"),
    ],
)
def test_a_training_that_fails_is_one_sentence_and_keeps_what_was_there(project, capsys, before, exit_code, said):
    stand_in(project)
    cli.main(["train", "toy"])
    model = project / "artifacts/trained/toy/model.keras"
    model.write_bytes(b"the earlier one")
    capsys.readouterr()
    stand_in(project, before)
    assert cli.main(["train", "toy"]) == exit_code
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert model.read_bytes() == b"the earlier one"
    assert [path.name for path in (project / "artifacts/trained").iterdir()] == ["toy"]


@pytest.mark.slow
def test_a_command_killed_with_9_leaves_nothing_that_stops_the_next_run(project):
    stand_in(project, "os.kill(os.getppid(), 9); sys.exit()")
    driver = (
        "import sys; from tests_driver import TOY; from pipeline import cli; from pipeline.examples import process\n"
        "from pipeline.commands.build import train\n"
        "process._MODULE = 'stand_in_training'; train.EXAMPLES['toy'] = TOY; sys.exit(cli.main(['train', 'toy']))"
    )
    (project / "tests_driver.py").write_text(open(__file__).read())  # noqa: PTH123, SIM115
    done = subprocess.run([sys.executable, "-c", driver], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (project / "artifacts/trained/toy").exists()
    stand_in(project)
    assert cli.main(["train", "toy", "--json"]) == 0
    assert trained(project) == WHAT_IS_WRITTEN
    assert [path.name for path in (project / "artifacts/trained").iterdir()] == ["toy"]


def test_an_unknown_example_is_refused_with_the_examples_there_are(project, capsys):
    assert cli.main(["train", "weather"]) == 2
    message = capsys.readouterr().err
    assert "'weather'" in message
    assert "credit, diagnosis, recommendation" in message


def test_missing_tensorflow_is_told_before_anything_is_downloaded(project, monkeypatch):
    monkeypatch.setattr(process.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(train, "fetch", lambda *_: pytest.fail("downloaded"))
    with pytest.raises(MissingExtra, match=r"hotspare\[build\]"):
        train.run(_arguments())


def test_the_process_gets_its_job_as_a_file(project):
    stand_in(project, "assert job['example'] == 'toy' and job['seed'] == 3, job")
    (project / "test.npz").write_bytes(encode_npz({"y": np.zeros(2)}))
    (project / "validation.npz").write_bytes(encode_npz({"y": np.zeros(2)}))
    process.run_training(Job("toy", 3, str(project), str(project), False), project)
    assert (project / "model.keras").exists()
    with pytest.raises(InternalError, match="AssertionError"):
        process.run_training(Job("toy", 4, str(project), str(project), False), project)


def test_a_killed_process_may_be_tried_again(project):
    stand_in(project, "os.kill(os.getpid(), 9)")
    with pytest.raises(SurroundingsError) as caught:
        process.run_training(Job("toy", 3, str(project), str(project), False), project)
    assert caught.value.retry


def test_lists_are_judged_by_the_ranking_metrics():
    labels = np.tile(np.eye(1, 20, 3, dtype=np.float32)[0], 5)
    split = {"y": labels, "group": np.repeat(np.arange(5), 20).astype(np.int32)}
    assert train._figures(split, labels) == {str(Metric.HIT_RATE_AT_10): 1.0, str(Metric.NDCG_AT_10): 1.0}


def _arguments():
    import argparse

    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return parser.parse_args(["toy"])


def test_a_training_inherits_no_signing_key(project, capsys, monkeypatch):
    monkeypatch.setenv("HOTSPARE_SIGNING_KEY", "secret")
    stand_in(project, "raise RuntimeError(f'key {os.environ.get(\"HOTSPARE_SIGNING_KEY\")}')")
    cli.main(["train", "toy"])
    assert "key None" in capsys.readouterr().err
