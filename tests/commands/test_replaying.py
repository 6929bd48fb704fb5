"""Replaying a recipe: what dvc says is heard, what it inherits is chosen, what fails is told."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.build import replaying
from pipeline.commands.build.replaying import Meter, Took, replay
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
    program.write_text(f'#!/bin/sh\necho "$*" >> asked\n{script}\n')
    program.chmod(0o755)


def test_stages_are_told_as_they_begin_and_measured_until_their_outputs_are_kept(dvc: Path) -> None:
    _does(
        dvc,
        "echo \"Stage 'prune@toy-dense' didn't change, skipping\"; echo \"Running stage 'score@toy':\"; "
        "echo '> hotspare score toy'; echo \"Updating lock file 'dvc.lock'\"; echo \"Running stage 'drill@toy':\"",
    )
    begun: list[str] = []
    ticks = iter(range(100))
    found = replay(_recipe(), begun.append, lambda: float(next(ticks)))
    assert begun == ["score@toy", "drill@toy"]
    assert found.stages == (Took("score@toy", 1.0), Took("drill@toy", 1.0))
    assert found.seconds == 5.0
    assert Path("asked").read_text() == "-m dvc repro drill@toy report@toy\n"


def test_a_source_that_a_stage_makes_is_committed_first(dvc: Path) -> None:
    _does(dvc, "")
    replay(_recipe("artifacts/trained/toy/model.keras"), lambda _: None)
    first, _ = Path("asked").read_text().splitlines()
    assert first == "-m dvc commit --force --quiet train@toy"


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


def test_dvc_inherits_the_signing_key_and_no_other_secret(dvc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("HOTSPARE_SIGNING_KEY", "HOTSPARE_TOKEN", "HOTSPARE_WEBHOOK_SECRET")
    for name in secrets:
        monkeypatch.setenv(name, name.lower())
    _does(dvc, "env > environment; command -v python > found")
    replay(_recipe(), lambda _: None)
    text = Path("environment").read_text()
    assert [name for name in secrets if name.lower() in text] == ["HOTSPARE_SIGNING_KEY"]
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
