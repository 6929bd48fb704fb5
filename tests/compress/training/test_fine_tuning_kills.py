"""kill -9 of the training process and of one of its workers: the same bytes as undisturbed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tuning_driver import job_of

from pipeline.compress import processes
from pipeline.compress.job import Job, Result, Step
from pipeline.core.canonical import readable_json
from pipeline.core.schema import plain

pytestmark = pytest.mark.slow

KILLED = {"model": "signal", "variant": "p50c16", "tuning": {"epochs": 8, "distill_ratio": 0.3}}
SPREAD = {"model": "signal", "variant": "p50", "tuning": {"epochs": 3, "distribute": "multi_worker", "workers": 2}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("kills")
    (made / "jobs.json").write_text("[]")
    driver = Path(__file__).with_name("tuning_driver.py")
    subprocess.run([sys.executable, str(driver), str(made), "3", str(made / "jobs.json")], check=True)
    return made


def job(folder: Path, name: str, asked: dict[str, Any]) -> Job:
    return job_of(folder, {"name": name, **asked})


def start_and_kill(job_file: Path, seconds: float) -> None:
    """Start the training process and kill it some time after its first step."""
    command = [sys.executable, "-m", "pipeline.compress.training", str(job_file)]
    environment = processes._environment(os.environ, None)
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        time.sleep(seconds)  # not to wait for a state: to be killed in any
        process.kill()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.long)])
def test_kill_9_at_any_moment_then_again_ends_in_the_same_bytes(folder: Path, kills: int) -> None:
    undisturbed = processes.train(job(folder, f"undisturbed{kills}", KILLED), print)
    killed = job(folder, f"killed{kills}", KILLED)
    job_file = Path(killed.out, "job.json")
    job_file.write_bytes(readable_json(plain(killed)))
    for seconds in np.random.default_rng().uniform(0, 0.12, kills):
        start_and_kill(job_file, seconds)
    assert processes.train(killed, print).exports == undisturbed.exports


def spread(folder: Path, name: str, kill_at: int | None) -> tuple[Result, int]:
    """Train with two workers; the second is killed at a step. Returns the result and how many steps were told."""
    asked, told = job(folder, name, SPREAD), 0

    def on_step(step: Step) -> None:
        nonlocal told
        told += 1
        if told == kill_at:
            os.kill(_workers(asked)[1], signal.SIGKILL)

    return processes.train(asked, on_step), told


def _workers(asked: Job) -> list[int]:
    """Return the process ids of a job's workers, by index."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(Path(asked.out, "job.json")) in (entry / "cmdline").read_text():
                environment = (entry / "environ").read_text().split("\0")
                config = next(item for item in environment if item.startswith("TF_CONFIG="))
                found[json.loads(config.partition("=")[2])["task"]["index"]] = int(entry.name)
        except (OSError, StopIteration):
            continue  # it ended meanwhile
    return [found[index] for index in sorted(found)]


@pytest.mark.long
def test_a_worker_killed_in_the_middle_of_an_epoch_changes_nothing(folder: Path) -> None:
    undisturbed, steps = spread(folder, "crew", None)
    killed, more = spread(folder, "crew-killed", kill_at=15)
    assert killed.exports == undisturbed.exports
    assert more > steps
    assert killed.made_by.endswith("native masks, 2 workers")
