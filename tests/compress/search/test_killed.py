"""kill -9 of a search, then the same command: the undisturbed answer."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from answers import WORK, answer

Searchable = Callable[..., Path]
COMMAND = [sys.executable, "-m", "pipeline.cli", "quantize", "tiny", "--workers"]

KILLED_AT_A_RESULT = """
import os, signal, sys
from pipeline.compress.search.journal import Journal
put, left = Journal.put, int(sys.argv[1])
def once(self, key, value):
    global left
    put(self, key, value)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.put = once
from pipeline.cli import main
main(["quantize", "tiny", "--workers", sys.argv[2]])
"""


def run(folder: Path, *, workers: int = 1) -> None:
    subprocess.run([*COMMAND, str(workers)], cwd=folder, check=True, capture_output=True, timeout=300)


@pytest.mark.slow
def test_killed_at_a_result_and_between_two_it_ends_as_if_undisturbed(searchable: Searchable) -> None:
    folder = searchable()
    for results in (17, 20):
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT_A_RESULT, str(results), "1"], cwd=folder, capture_output=True, timeout=300
        )
        assert done.returncode == -9
        assert (folder / WORK / "journal.jsonl").exists()
    run(folder)
    resumed = answer(folder)
    assert not (folder / WORK).exists()
    run(folder)
    assert answer(folder) == resumed


@pytest.mark.long
def test_killed_at_random_moments_it_ends_as_if_undisturbed(searchable: Searchable) -> None:
    folder = searchable()
    started = time.monotonic()
    run(folder, workers=2)
    whole = time.monotonic() - started
    undisturbed = answer(folder)
    moments = random.Random(3)
    for moment in [moments.uniform(0.05, 1.0) * whole for _ in range(12)]:
        with subprocess.Popen(
            [*COMMAND, "2"], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                process.wait(timeout=moment)
            except subprocess.TimeoutExpired:
                process.kill()
    run(folder, workers=2)
    assert answer(folder) == undisturbed
