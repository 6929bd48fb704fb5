"""What the compression benchmark counts must be right, or every figure in the docs is wrong."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.canonical import readable_json
from pipeline.core.recipe import Minimize
from pipeline.core.schema import plain

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import seeds

LISTS = {"group": np.repeat(np.arange(7, dtype=np.int32), 3), "y": np.tile([0, 0, 1], 7)}


def result(seed: int, locked: float, searched_bytes: int = 50) -> seeds.SeedResult:
    uniform = seeds.Picked("dense.w8", 100, 90, 0.0, 0.001, 0.0)
    searched = seeds.Picked("p50s.mixed-1", searched_bytes, 40, 0.004, 0.009, locked)
    return seeds.SeedResult("abc", "credit", seed, 5.0, 8.0, True, (), searched, uniform, None, 0.9, 1.2)


def test_dealing_keeps_every_row_once_and_lists_whole() -> None:
    validation, locked = seeds.deal(LISTS, 4, seed=3)

    assert sorted([*validation, *locked]) == list(range(21))
    assert len(set(LISTS["group"][validation])) == 4
    assert not set(LISTS["group"][validation]) & set(LISTS["group"][locked])


def test_another_seed_deals_otherwise_and_an_equal_one_alike() -> None:
    deals = [seeds.deal({"y": np.zeros(100)}, 50, seed)[0].tolist() for seed in (1, 1, 2)]

    assert deals[0] == deals[1] != deals[2]


def test_lists_of_two_splits_with_equal_numbers_stay_two_lists() -> None:
    both = seeds.joined([LISTS, LISTS])

    assert len(np.unique(both["group"])) == 14
    assert len(both["y"]) == 42


def test_a_locked_loss_at_the_budget_is_within_it_and_the_worst_overshoot_is_told() -> None:
    found = seeds.summary([result(0, 0.01), result(1, 0.012), result(2, 0.015)], Minimize.BYTES, 0.01)

    assert (found.over_budget, found.worst_overshoot) == (2, 0.005)


def test_saved_bytes_are_shares_of_the_best_uniform_file_of_the_same_seed() -> None:
    found = seeds.summary([result(0, 0, 50), result(1, 0, 80), result(2, 0, 120)], Minimize.BYTES, 0.01)

    assert (found.bytes_saved_median, found.bytes_saved_least) == (0.2, -0.2)


def test_a_seed_without_a_choice_is_counted_and_saves_nothing() -> None:
    found = seeds.summary([replace(result(0, 0), searched=None, latency_ratio=None)], Minimize.BYTES, 0.01)

    assert (found.none_found, found.over_budget, found.bytes_saved_median) == (1, 0, None)


@pytest.mark.parametrize(("made_of", "is_used"), [("abc", True), ("other code", False)])
def test_a_result_of_other_code_or_exports_is_measured_again(tmp_path: Path, made_of: str, is_used: bool) -> None:
    (tmp_path / "0.json").write_bytes(readable_json(plain(result(0, 0.0))))

    assert (seeds.read_result(tmp_path / "0.json", made_of) is not None) is is_used
