"""Replaying a recipe: what dvc says is heard, what it inherits is chosen, what fails is told."""

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.build import replaying
from pipeline.commands.build.replaying import Dvc, Meter, Took, replay
from pipeline.core.environment import SECRETS
from pipeline.core.errors import MissingStageError, ReplayFailed, Unreachable
from pipeline.core.recipe import Recipe, parse_recipe

RECIPE = """
model: toy
about: {{title: A toy, intended_use: Tests., limits: Not for use., data_source: drawn, licence: MIT}}
source: {{path: {path}, format: keras}}
data: {{train: rows.npz, calibration: rows.npz, validation: rows.npz, test: rows.npz}}
metric: auc
budgets: {{loss_max_abs: 0.01}}
variants: {{dense: {{}}}}
schemes: {{tflite: [f32, w8]}}
"""


def _recipe(path: str = "models/toy/model.keras") -> Recipe:
    return parse_recipe(RECIPE.format(path=path), "toy.yaml")


@pytest.fixture
def dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose dvc does what a test writes into it; what it was asked for is noted beside it."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text("stages: {}\n")
    program = tmp_path / "bin" / "python"
    program.parent.mkdir()
    monkeypatch.setattr(replaying, "sys", SimpleNamespace(executable=str(program)))
    return program


def _does(program: Path, script: str) -> None:
    program.write_text(f'#!/bin/sh\necho "$*" >> started\ncat >> asked\n{script}\n')
    program.chmod(0o755)


def test_stages_are_told_as_they_begin_and_measured_until_their_outputs_are_kept(dvc: Path) -> None:
    _does(
        dvc,
        "echo \"Stage 'prune@toy-dense' didn't change, skipping\"; echo \"Running stage 'score@toy':\"; "
        "echo '> hotspare score toy'; echo \"Updating lock file 'dvc.lock'\"; echo \"Running stage 'drill@toy':\"",
    )
    begun: list[str] = []
    ticks = iter(range(100))
    found = replay(_recipe(), begun.append, clock=lambda: float(next(ticks)))
    assert begun == ["score@toy", "drill@toy"]
    assert found.stages == (Took("score@toy", 1.0), Took("drill@toy", 1.0))
    assert found.seconds == 5.0
    assert Path("started").read_text() == "-m pipeline.commands.build.waiting_dvc\n"
    assert json.loads(Path("asked").read_text()) == [["repro", "drill@toy", "report@toy"]]


def test_a_source_that_a_stage_makes_is_committed_first(dvc: Path) -> None:
    _does(dvc, "")
    replay(_recipe("artifacts/trained/toy/model.keras"), lambda _: None)
    first, _ = json.loads(Path("asked").read_text())
    assert first == ["commit", "--force", "--quiet", "train@toy"]


def _starts() -> int:
    return len(Path("started").read_text().splitlines()) if Path("started").exists() else 0


def test_a_dvc_that_waits_is_the_one_that_runs_and_only_once(dvc: Path) -> None:
    _does(dvc, "")
    one = Dvc()
    for _ in range(2):
        one.get_ready()
    replay(_recipe(), lambda _: None, one)
    assert _starts() == 1
    replay(_recipe(), lambda _: None, one)
    assert _starts() == 2
    one.close()
    assert len(Path("asked").read_text().splitlines()) == 2


def test_a_dvc_that_died_while_it_waited_is_replaced(dvc: Path) -> None:
    _does(dvc, "")
    one = Dvc()
    one.get_ready()
    waiting = one._waiting
    assert waiting is not None
    waiting.kill()
    waiting.wait()
    replay(_recipe(), lambda _: None, one)
    assert json.loads(Path("asked").read_text()) == [["repro", "drill@toy", "report@toy"]]


def test_a_dvc_that_nobody_needs_any_more_ends(dvc: Path) -> None:
    _does(dvc, "")
    one = Dvc()
    one.get_ready()
    waiting = one._waiting
    one.close()
    assert waiting is not None
    assert waiting.returncode == -signal.SIGKILL  # it had begun nothing; its imports alone take seconds


@pytest.mark.slow
def test_a_real_dvc_that_waited_runs_its_commands_in_their_order_up_to_the_first_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    said: list[str] = []
    one = Dvc()
    one.get_ready()
    Path("dvc.yaml").write_text(
        "stages:\n  first: {cmd: echo made > one, outs: [one]}\n  second: {cmd: 'false', deps: [one]}\n"
    )
    with pytest.raises(ReplayFailed, match="failed to reproduce 'second'"):
        one.run("toy", [["init", "--no-scm", "--quiet"], ["repro", "first"], ["repro"], ["never"]], said.append)
    assert Path("one").read_text() == "made\n"
    assert any("Running stage 'first'" in line for line in said)
    assert not any("never" in line for line in said)


def test_a_stage_that_fails_is_told_in_its_own_words(dvc: Path) -> None:
    _does(
        dvc,
        "echo \"Running stage 'drill@toy':\"; echo 'hotspare drill: A drill of toy missed an objective.'; "
        "echo \"ERROR: failed to reproduce 'drill@toy'\"; exit 255",
    )
    with pytest.raises(ReplayFailed) as told:
        replay(_recipe(), lambda _: None)
    assert told.value.reasons == (
        "hotspare drill: A drill of toy missed an objective.",
        "ERROR: failed to reproduce 'drill@toy'",
    )


@pytest.mark.parametrize(
    "words", ["ERROR: Unable to acquire lock. Most likely another DVC process is running", "it is being blocked by: x"]
)
def test_another_dvc_at_work_is_waited_for(dvc: Path, words: str) -> None:
    _does(dvc, f"echo '{words}'; exit 255")
    with pytest.raises(Unreachable):
        replay(_recipe(), lambda _: None)


def test_dvc_inherits_the_secrets_that_its_stages_need_and_no_other(dvc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, f"value-of-{name}")
    _does(dvc, "env > environment; command -v python > found")
    replay(_recipe(), lambda _: None)
    found = set(re.findall(r"value-of-(\w+)", Path("environment").read_text()))
    signing = {"HOTSPARE_SIGNING_KEY", "HOTSPARE_SIGNING_PIN"}  # a key in a token is none without its PIN
    assert found == signing | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"}
    assert Path("found").read_text().strip() == str(dvc)


def test_a_project_without_stages_cannot_be_replayed(dvc: Path) -> None:
    Path("dvc.yaml").unlink()
    with pytest.raises(MissingStageError, match="no stages to replay"):
        replay(_recipe(), lambda _: None)


@given(st.lists(st.one_of(st.text(max_size=40), st.sampled_from(["Running stage 'a@b':", "Updating lock file 'x'"]))))
def test_whatever_dvc_says_stages_follow_one_another(lines: list[str]) -> None:
    begun: list[str] = []
    ticks = iter(range(10_000))
    meter = Meter(lambda: float(next(ticks)), begun.append)
    for line in lines:
        meter.hear(line)
    took = meter.finish()
    assert [one.stage for one in took] == begun
    assert all(one.seconds > 0 for one in took)
