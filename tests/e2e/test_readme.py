"""The README's command blocks, run as they stand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENT_DRILLS
from rows import tiny_rows

from pipeline.drill.live.processes import free_port

pytestmark = pytest.mark.slow


def test_every_shell_block_of_the_readme_runs_in_order(tmp_path: Path, root: Path, fixture_models: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", (root / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 7
    (tmp_path / "fraud.tflite").write_bytes((fixture_models / "tiny_dense.tflite").read_bytes())
    np.savez(tmp_path / "rows.npz", **tiny_rows(4000, seed=2))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GIT_AUTHOR_NAME": "reader", "GIT_AUTHOR_EMAIL": "reader@localhost",
        "GIT_COMMITTER_NAME": "reader", "GIT_COMMITTER_EMAIL": "reader@localhost",
    }  # fmt: skip
    # `dvc exp` needs a commit, as every project has that is older than five minutes.
    one_shot = f"(cd .. && {blocks[1].strip()} --seconds 10)\n"
    begins = blocks[0].replace("cd fraud-project\n", f"cd fraud-project\n{PATIENT_DRILLS}")
    assert PATIENT_DRILLS in begins
    script = (
        "set -eux\ntrap 'kill $(jobs -p) || true' EXIT\n"
        + begins
        + "git add -A && git commit -qm first\n"
        + one_shot
        + "".join(blocks[2:]).replace("8080", str(free_port()))
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert (tmp_path / "compressed" / "report.html").is_file()
    project = tmp_path / "fraud-project"
    answers = np.load(project / "answers.npz")["probability"]
    truth = np.load(project / "data/fraud/test.npz")["y"]
    assert np.mean((answers[:, 0] > 0.5) == truth) > 0.8
    assert list((project / "artifacts/reports/fraud").glob("index.html"))
    for drilled in ("drills", "tried_drills"):
        assert json.loads((project / "artifacts" / drilled / "fraud/metrics.json").read_text())["lost"] == 0
