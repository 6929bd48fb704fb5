"""``hotspare drill --campaign``: what it holds, what it goes on with, when it fails (the live world is not asked)."""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from fcntl import LOCK_EX, flock
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import drilled
import pytest
from drilled import kill

from pipeline.cli import main
from pipeline.commands.build.drill_campaign import hold_campaign
from pipeline.core import layout
from pipeline.core.errors import DrillFailed, RecipeError, UsageError
from pipeline.core.names import Role
from pipeline.core.recipe import Recipe
from pipeline.core.schema import read
from pipeline.drill.campaign_results import CampaignResult
from pipeline.drill.nouns import Observed, Script
from pipeline.drill.play import World, play

RECIPE = """
model: {model}
about: {{title: A tiny model, intended_use: Tests., limits: None., data_source: drawn, licence: MIT}}
source: {{path: model.keras, format: keras}}
data: {{train: r.npz, calibration: r.npz, validation: r.npz, test: r.npz}}
metric: auc
budgets: {{loss_max_abs: 0.01}}
variants: {{dense: {{}}}}
schemes: {{tflite: [f32, w8]}}
"""
CAMPAIGN = """
about: A killed primary.
models: [tiny, other]
matrices:
  often: {drills: [kill-primary], repeats: 2}
  prices: {drills: [kill-primary], strategies: [written, warm], is_judged: false}
strategies: {warm: standby=warm}
"""
KILL = replace(drilled.KILL, load=replace(drilled.KILL.load, rate_per_s=20.0))
PLACE = layout.campaign_dir("nightly", "tiny")
Asked = list[tuple[str, int]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("recipes/models").mkdir(parents=True)
    Path("recipes/campaigns").mkdir()
    for model in ("tiny", "other"):
        Path(f"recipes/models/{model}.yaml").write_text(RECIPE.format(model=model))
    Path("recipes/campaigns/nightly.yaml").write_text(CAMPAIGN)
    return tmp_path


def bundles(model: str) -> Mapping[Role, Any]:
    return {role: SimpleNamespace(bundle_id=f"{model} {role}") for role in Role}


def hold(play_once: Callable[[Script, int], Observed] = kill, **given: object) -> Asked:
    """Hold the campaign; returns (model, repeat) of every play."""
    asked: Asked = []

    def player_of(recipe: Recipe, _world: World) -> Callable[[Script, int], Observed]:
        def once(script: Script, number: int) -> Observed:
            asked.append((recipe.model, number))
            return play_once(script, number)

        return once

    usual = {"campaign": "nightly", "model": "tiny", "world": "live", "script": None, "repeats": 1, "out": None}
    args = argparse.Namespace(**{**usual, "fresh": False, "json": True, **given})
    assert hold_campaign(args, [KILL], player_of, bundles) == 0
    return asked


def found(name: str = "campaign.json") -> CampaignResult:
    return read(CampaignResult, json.loads((PLACE / name).read_text()))


def lost(script: Script, number: int) -> Observed:
    seen = kill(script, number)
    return Observed(seen.world, seen.requests, seen.moments, seen.serving, left_out="Nobody was at home.")


def test_a_campaign_leaves_every_file_and_tells_machines(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hold() == [("tiny", 0), ("tiny", 1), ("tiny", 0)]
    told = json.loads(capsys.readouterr().out)
    assert [one["model"] for one in told] == ["tiny"]
    assert found().plays == 3
    assert len((PLACE / "runs.jsonl").read_text().splitlines()) == 3
    assert "▸" in (PLACE / "strategies.md").read_text()
    assert "Campaign nightly of tiny: passed" in (PLACE / "index.html").read_text()


def test_without_a_model_all_models_of_the_campaign_are_drilled(project: Path) -> None:
    assert {model for model, _ in hold(model=None)} == {"tiny", "other"}


def test_after_a_finished_campaign_a_new_one_begins_and_is_compared_with_it(project: Path) -> None:
    hold()
    first = found()
    assert len(hold()) == 3
    assert found("previous.json") == first
    comparison = found().comparison
    assert comparison is not None
    assert comparison.cells == 2


def test_an_objective_that_held_last_time_fails_the_campaign_by_its_exit_code(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold()
    with pytest.raises(DrillFailed) as failed:
        hold(lost)
    assert "kill-primary: objective was met" in "\n".join(failed.value.reasons)
    assert not found().passed


def test_an_interrupted_campaign_goes_on_and_fresh_forgets_it(project: Path) -> None:
    def breaks_off(script: Script, number: int) -> Observed:
        if number:
            raise KeyboardInterrupt
        return kill(script, number)

    for given, plays in (({}, 2), ({"fresh": True}, 3)):
        with pytest.raises(KeyboardInterrupt):
            hold(breaks_off, fresh=True)
        assert len(hold(**given)) == plays


def test_worlds_do_not_mix(project: Path) -> None:
    hold()
    hold(world="simulated")
    assert found().world == "live"
    assert layout.campaign_dir("nightly", "tiny", is_live=False).is_dir()


def test_two_calls_do_not_hold_one_campaign(project: Path) -> None:
    PLACE.mkdir(parents=True)
    with (PLACE / ".lock").open("ab") as lock:
        flock(lock, LOCK_EX)
        with pytest.raises(UsageError, match="Another call"):
            hold()


@pytest.mark.parametrize("given", [{"script": ["kill"]}, {"repeats": 3}, {"out": Path("x")}])
def test_what_a_campaign_names_itself_is_not_given_beside(project: Path, given: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="names its own"):
        hold(**given)
    with pytest.raises(RecipeError, match="campaigns here: nightly"):
        hold(campaign="weekly")


@pytest.mark.usefixtures("project")
def test_fresh_belongs_to_campaigns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", "tiny", "--fresh"]) == UsageError.exit_code
    assert "--campaign" in capsys.readouterr().err


# The world is the simulated one; before the last play the program says so, and waits to be killed.
PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from test_campaign_command import hold, simulated

def once(script, number):
    if number:
        print("here", flush=True)
        sys.stdin.read()
    return simulated(script, number)

hold(once, world="simulated")
"""


def simulated(script: Script, number: int) -> Observed:
    return play(script, World.SIMULATED, number)


@pytest.mark.slow
def test_a_campaign_that_was_killed_goes_on_to_the_same_result(project: Path) -> None:
    here = Path(__file__).parent
    program = PROGRAM.format(paths=[str(here), str(here.parent / "fixtures")])
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        os.kill(process.pid, signal.SIGKILL)
    place = layout.campaign_dir("nightly", "tiny", is_live=False)
    assert not (place / "campaign.json").exists()
    assert hold(simulated, world="simulated") == [("tiny", 1), ("tiny", 0)]
    resumed, lines = json.loads((place / "campaign.json").read_text()), (place / "runs.jsonl").read_bytes()
    hold(simulated, world="simulated")
    whole = json.loads((place / "campaign.json").read_text())
    assert (place / "runs.jsonl").read_bytes() == lines
    for name in ("cells", "strategies", "weakest", "runs_sha256"):
        assert resumed[name] == whole[name]
