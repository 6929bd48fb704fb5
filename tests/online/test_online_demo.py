"""The demonstration, with one trial of three modes on the small model: real processes, killed, replaced and stopped."""

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sealed import sealed, tiny_rows

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import online

ROOT = Path(__file__).parents[2]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose sockets' paths are short enough for the system, wherever the tests run."""
    with tempfile.TemporaryDirectory(prefix="online-") as name:
        yield Path(name)


@pytest.mark.slow
def test_no_acknowledged_update_is_lost_with_its_leader_and_a_deposed_leader_is_silent(
    tmp_path: Path, short_folder: Path
) -> None:
    made = sealed(tmp_path / "bundles")
    rows = tiny_rows(300)
    labels = (rows["features"][:, 0] > 0).astype(np.float32)
    np.savez(tmp_path / "rows.npz", y=labels, **rows)
    (command,) = re.findall(r"^(python benchmarks/online\.py .*)$", (ROOT / "docs" / "online.md").read_text(), re.M)
    told = {
        "--bundle": made.backup, "--rows": tmp_path / "rows.npz", "--out": short_folder,
        "--trials": 1, "--modes": "sync replaced-sync stopped-async",
    }  # fmt: skip
    arguments = [sys.executable, *shlex.split(command)[1:], "--json"]
    for name, value in told.items():
        arguments += [name, *str(value).split()]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (again.stdout, again.stderr.count('"seed"')) == (run.stdout, 0)  # nothing is missing
    for figures in json.loads(run.stdout):
        assert figures["acknowledged"] > 0
        assert figures["lost_most"] <= figures["may_lose_each"]
        assert figures["by_the_deposed"] == 0
        assert figures["same_state"] == figures["checkpoints_verified"] == figures["trials"] == 1


def test_trials_of_another_bundle_other_rows_or_another_bound_are_not_taken_for_this_ones(tmp_path: Path) -> None:
    made = sealed(tmp_path / "bundles")
    np.savez(tmp_path / "rows.npz", **tiny_rows(3))
    np.savez(tmp_path / "others.npz", **tiny_rows(4))
    args = argparse.Namespace(bundle=made.backup, rows=tmp_path / "rows.npz", ahead=64)
    others = ({"bundle": made.primary}, {"rows": tmp_path / "others.npz"}, {"ahead": 8})
    found = {online.made_of(argparse.Namespace(**{**vars(args), **other})) for other in ({}, *others)}
    assert len(found) == 4
    assert online.made_of(args) in found
