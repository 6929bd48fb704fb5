"""Processes in several project folders promote and roll back one model in one SQLite store, and are killed."""

import shutil
from pathlib import Path

import pytest
from contending import Outcome, storm


@pytest.fixture
def uri(tmp_path: Path, store_template: Path) -> str:
    shutil.copytree(store_template / "mlflow", tmp_path / "mlflow")
    return f"sqlite:///{tmp_path}/mlflow/store/mlflow.db"


def _holds(outcome: Outcome, promotions: int) -> None:
    print(outcome)
    assert outcome.wrong == []
    assert outcome.promotions >= promotions
    assert outcome.seq >= outcome.promotions, "a number was given out twice"


@pytest.mark.slow
def test_promoting_and_rolling_back_at_once_under_kills_ends_in_agreement(tmp_path: Path, uri: str) -> None:
    _holds(storm(tmp_path, uri, promotions=6, processes=3, folders=2, seed=1), 6)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("folders", [1, 4])
def test_eight_processes_promote_and_roll_back_two_hundred_times_under_kills(
    tmp_path: Path, uri: str, folders: int
) -> None:
    outcome = storm(tmp_path, uri, promotions=200, processes=8, folders=folders, seed=folders)
    _holds(outcome, 200)
    assert outcome.kills >= 20
    assert outcome.rollbacks >= 50
