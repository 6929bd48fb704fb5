"""docs/drills.md says what is true: its tables follow from the code, and what it tells readers to type works."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml
from mutations import table
from sealed import sealed, tiny_rows

from pipeline.cli import main
from pipeline.commands.build import drill
from pipeline.core import layout
from pipeline.core.errors import DrillFailed, KeyFileError, MissingStageError, RecipeError, UsageError
from pipeline.core.names import Role
from pipeline.drill.chaos_toolkit import parse_experiment
from pipeline.drill.measures import LATE_MS, SLO_RATIO, measure
from pipeline.drill.nouns import Script
from pipeline.drill.reference import DONE, tables, written
from pipeline.drill.script import SHOWABLE, parse_script
from pipeline.drill.simulated import explore
from pipeline.drill.simulated.world import simulate
from pipeline.drill.transcript import transcript
from pipeline.drill.verdict import judge
from pipeline.registry.promotion_policy import Gates

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/drills.md"
TEXT = PAGE.read_text()


def fenced() -> dict[str, list[str]]:
    """Every block of the page by its language."""
    found: dict[str, list[str]] = {}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        found.setdefault(language, []).append(block)
    return found


BLOCKS = fenced()


def test_the_tables_follow_from_the_code() -> None:
    assert written(TEXT, tables()) == TEXT, "python -m pipeline.drill.reference docs/drills.md writes them again"
    assert all(f"<!-- {name}: begin" in TEXT for name in (*tables(), "mutations"))
    assert all(done.live and done.simulated for done in DONE.values())


def test_the_table_of_planted_bugs_is_what_the_drills_find() -> None:
    found = table()
    assert written(TEXT, {"mutations": found}) == TEXT, "python tests/drill/mutations.py docs/drills.md writes it"
    assert "not caught" not in found


def test_the_script_that_is_shown_can_be_read_and_comes_out_as_shown() -> None:
    (shown,) = (block for block in BLOCKS[""] if block.startswith("# "))
    script = parse_script(shown, "shown")
    assert transcript(script, simulate(script, 0)) == script.transcript


def test_every_word_of_the_language_is_explained() -> None:
    for word in ("pair", "load", "at", "expect", "needs", "shows"):
        assert f"| `{word}" in TEXT
    assert f"`{' '.join(SHOWABLE)}`" in TEXT
    assert f"after more than {LATE_MS:g} ms" in TEXT
    assert f"an objective of {SLO_RATIO:.1%} allows".replace("%", " %") in TEXT


def test_the_exit_codes_are_those_of_the_errors() -> None:
    assert re.search(rf"^\| {DrillFailed.exit_code} \| one missed an objective", TEXT, re.MULTILINE)
    codes = ", ".join(str(one.exit_code) for one in (UsageError, RecipeError, KeyFileError, MissingStageError))
    assert f"| {codes} … |" in TEXT


def test_the_experiment_can_be_played() -> None:
    script: Script = parse_experiment((ROOT / "docs/experiment.json").read_bytes(), "experiment")
    assert judge(script.objectives, measure(script, simulate(script, 0))).passed
    assert json.loads((ROOT / "docs/experiment.json").read_text())["rollbacks"] == []


def parsed(command: str) -> argparse.Namespace:
    """Parse a command of ours as the program does."""
    parser = argparse.ArgumentParser()
    drill.add_arguments(parser)
    return parser.parse_args(shlex.split(command.partition("#")[0])[2:])


def test_every_drill_command_on_the_page_is_one_that_the_program_takes() -> None:
    found = re.findall(r"hotspare drill(?: [^\n`]*)?", "\n".join(text for texts in BLOCKS.values() for text in texts))
    assert len(found) >= 10
    for command in found:
        parsed(command.partition(">>")[0])
    for name in re.findall(r"--campaign (\w+)", TEXT):
        assert (ROOT / f"recipes/campaigns/{name}.yaml").is_file()


def test_the_workflow_pins_what_it_uses_and_may_only_read() -> None:
    (workflow,) = (yaml.safe_load(block) for block in BLOCKS["yaml"] if "jobs:" in block)
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    uses = [step["uses"] for step in job["steps"] if "uses" in step]
    assert len(uses) == 3
    assert all(re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", one) for one in uses)
    upload = next(step for step in job["steps"] if "upload" in step.get("uses", ""))
    command = next(step["run"] for step in job["steps"] if "drill" in step.get("run", ""))
    assert str(parsed(command).out) == upload["with"]["path"]
    ours = (ROOT / ".github/workflows/ci.yml").read_text()
    assert all(one in ours for one in uses if "upload" not in one)


def test_the_gates_are_those_of_the_policy() -> None:
    (gates,) = (yaml.safe_load(block)["gates"] for block in BLOCKS["yaml"] if block.startswith("gates:"))
    assert gates.keys() <= {one.name for one in fields(Gates)}
    assert gates == {
        name: yaml.safe_load((ROOT / "mlflow/promotion.yaml").read_text())["gates"][name] for name in gates
    }


def test_the_units_are_what_systemd_reads(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in BLOCKS["ini"]:
        name = re.match(r"# /etc/systemd/system/(\S+)", unit)[1]
        changed = unit.replace("/opt/hotspare/bin/hotspare", "/bin/true").replace("User=hotspare\n", "")
        (tmp_path / name).write_text(changed.replace("/srv/fraud-project", "/"))
    found = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "hotspare-drill.timer")],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert not [line for line in found.stderr.splitlines() if "hotspare" in line]


def test_every_link_leads_somewhere() -> None:
    headings = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        place, _, anchor = target.partition("#")
        assert not place or (PAGE.parent / place).exists(), target
        assert place or anchor in anchors, target


RECIPE = """
model: tiny
about: {title: A tiny model, intended_use: Tests., limits: None., data_source: drawn, licence: MIT}
source: {path: model.keras, format: keras}
data: {train: rows.npz, calibration: rows.npz, validation: rows.npz, test: rows.npz}
metric: hit_rate_at_10
budgets: {loss_max_abs: 0.01}
variants: {dense: {}}
schemes: {tflite: [f32, w8]}
drills: [kill]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose packed model is called tiny, as the working folder."""
    made = sealed(tmp_path / "made")
    root = tmp_path / "project"
    for role, bundle in ((Role.PRIMARY, made.primary), (Role.BACKUP, made.backup)):
        shutil.copytree(bundle, root / layout.bundle_dir("tiny", role))
    shutil.copytree(made.channel, root / "artifacts/channels/tiny")
    shutil.copytree(made.folder / "keys", root / layout.KEYS)
    shutil.copyfile(made.trust, root / layout.TRUST_POLICY)
    shutil.copytree(ROOT / "recipes/drills", root / "recipes/drills")
    (root / "recipes/models").mkdir()
    (root / "recipes/models/tiny.yaml").write_text(RECIPE)
    (root / "docs").mkdir()
    shutil.copyfile(ROOT / "docs/experiment.json", root / "docs/experiment.json")
    np.savez(root / "rows.npz", **tiny_rows(300, seed=4))
    monkeypatch.chdir(root)
    return root


@pytest.mark.slow
def test_every_command_of_the_tour_works_in_order(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = []
    for command in "".join(BLOCKS["sh"]).replace("credit", "tiny").splitlines():
        program, *words = shlex.split(command)
        if program == "python":
            assert words[:2] == ["-m", "pipeline.drill.simulated.explore"]
            assert explore.main([*words[2:-1], "4", "--processes", "1"]) == 0
        else:
            assert program == "hotspare"
            assert main(words) == 0, command
        told.append(capsys.readouterr().out)
    listed, marked, simulated, live, verified, experiment, explored = told
    assert "A killed primary costs no answer." in listed
    assert "* kill" in marked
    assert "1 drill in the simulated world" in simulated
    assert "1 drill in the live world" in live
    assert "artifacts/tried_drills/tiny/index.html" in live
    assert re.search(r"^drill +passed, live, .*: kill; ", verified, re.MULTILINE)
    assert "experiment" in experiment
    assert re.search(r"^4 schedules, \d+ requests, \d+ strikes in .*: 0 broken$", explored, re.MULTILINE)
