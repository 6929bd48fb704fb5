"""A user's own model, from `hotspare init` to a promoted pair, with real dvc, MLflow and signatures."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

STAGES = ("prune", "quantize", "score", "select", "pack", "drill", "report", "register")


def _ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def _kinds(output: str) -> set[str]:
    return {name.split("@")[0] for name in _ran(output)}


def _ids(shell, project: Path) -> dict[str, str]:
    return {
        role: json.loads(
            shell(
                ["hotspare", "verify", f"artifacts/bundles/tiny-{role}", "--trust", "artifacts/trust.yaml", "--json"],
                project,
            ).stdout
        )["bundle_id"]
        for role in ("primary", "backup")
    }


def test_a_scaffolded_project_reproduces_once_and_then_only_what_changed(project: Path, shell) -> None:
    first = shell(["dvc", "repro"], project)
    assert _kinds(first.stdout) == set(STAGES)
    ids = _ids(shell, project)
    assert ids["primary"] != ids["backup"]
    channel = (project / "artifacts/channels/tiny/channel.json").read_bytes()
    lock = (project / "dvc.lock").read_bytes()

    second = shell(["dvc", "repro"], project)
    assert _ran(second.stdout) == ["register"]
    assert (project / "artifacts/channels/tiny/channel.json").read_bytes() == channel
    assert _ids(shell, project) == ids
    assert (project / "dvc.lock").read_bytes() == lock

    recipe = project / "recipes/models/tiny.yaml"
    recipe.write_text(recipe.read_text().replace("title: tiny", "title: A tiny model"))
    third = shell(["dvc", "repro"], project)
    assert _kinds(third.stdout) == {"pack", "drill", "report", "register"}
    assert _ids(shell, project) != ids

    assert "pack@tiny" in shell(["dvc", "dag"], project).stdout
    shown = shell(["dvc", "metrics", "show"], project).stdout
    assert "backup.bytes" in shown
    assert "drills_passed" in shown
    assert "drill of tiny: passed" in (project / "artifacts/drills/tiny/index.html").read_text().lower()
    shell(["dvc", "plots", "show"], project)
    assert "tiny bytes and loss" in (project / "dvc_plots/index.html").read_text()


def test_two_clean_packs_of_the_same_candidates_have_the_same_ids(project: Path, shell) -> None:
    shell(["dvc", "repro", "pack"], project)
    ids = _ids(shell, project)
    shell(["dvc", "repro", "--force", "--single-item", "pack@tiny"], project)
    assert _ids(shell, project) == ids


def test_a_process_killed_in_any_stage_leaves_a_tree_in_which_repro_finishes(project: Path, shell) -> None:
    binaries = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"}
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    lock = project / "dvc.lock"
    for stage in STAGES:
        committed = lock.read_bytes() if lock.exists() else None
        running = subprocess.Popen(
            ["dvc", "repro", stage], cwd=project, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _await_stage(running, stage)
        time.sleep(chance.uniform(0, 2.0))  # the moment of the kill, not a wait for a state
        os.killpg(running.pid, signal.SIGKILL)  # its leader, dead or alive, is not reaped yet
        running.wait()
        _do_as_the_doctor_says(shell, project, committed)
        shell(["dvc", "repro", stage], project)
    done = shell(["dvc", "repro"], project)
    assert _ran(done.stdout) == ["register"], f"seed {seed}"
    assert len(_ids(shell, project)) == 2
    assert [str(path) for path in project.rglob(".aside-*")] == []


def _do_as_the_doctor_says(shell, project: Path, committed: bytes | None) -> None:
    """Mend what dvc, killed while it wrote in place, does not start over; nothing else may be amiss."""
    told = json.loads(shell(["hotspare", "doctor", "--json"], project, check=False).stdout)["project"]
    amiss = {one["what"] for one in told if one["word"] == "FAIL"}
    assert amiss <= {".dvc/tmp/rwlock", "dvc.lock"}
    for name in amiss:
        (project / name).unlink()
    if "dvc.lock" in amiss and committed is not None:
        (project / "dvc.lock").write_bytes(committed)


def _await_stage(running: "subprocess.Popen[bytes]", stage: str) -> None:
    """Wait until a process of dvc's session runs ``hotspare <stage>`` (or dvc is through)."""
    while not _is_through(running):
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    session = (entry / "stat").read_text().rsplit(")", 1)[1].split()[3]
                except (FileNotFoundError, ProcessLookupError):
                    continue
                is_hotspare = any(Path(os.fsdecode(word)).name == "hotspare" for word in words)
                if session == str(running.pid) and stage.encode() in words and is_hotspare:
                    return
        time.sleep(0.01)


def _is_through(running: "subprocess.Popen[bytes]") -> bool:
    """Tell whether it has ended, and leave it unreaped: until then its group is there to be killed."""
    return os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
