"""What a log of updates costs is measured on a log that is written, read and shortened."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import log_cost

from pipeline.online.update_log import read_log


def test_the_log_is_told_as_it_was_before_half_of_it_was_dropped(tmp_path: Path) -> None:
    size, read_s, shorten_s = log_cost.measure(tmp_path, 10, 64)
    assert [record.seq for record in read_log(tmp_path / "updates.log", log_cost.BASE_ID)] == [6, 7, 8, 9, 10]
    assert size > 10 * 4 * 64 > (tmp_path / "updates.log").stat().st_size - 1000
    assert min(read_s, shorten_s) > 0


def test_one_line_says_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    log_cost.main(["--updates", "10", "--activations", "2"])
    assert capsys.readouterr().out.startswith("10 updates of 2 activations: 0.0 MB, read in ")
