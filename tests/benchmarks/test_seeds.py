"""What the compression benchmark counts must be right, or every figure in the docs is wrong."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.canonical import readable_json
from pipeline.core.recipe import Minimize, Search
from pipeline.core.schema import plain
from pipeline.data.splits import Split

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import answering
import seeds
import tables

LISTS = Split({"x": np.arange(21.0)}, np.tile([0, 0, 1], 7), np.repeat(np.arange(7, dtype=np.int32), 3))


def picked(name: str, size: int, locked: float) -> seeds.Picked:
    return seeds.Picked(name, size, size // 2 + size % 2, 0.95, 0.004, 0.009, locked)


def result(seed: int, locked: float, searched_bytes: int = 50, uniform_locked: float = 0.0) -> seeds.SeedResult:
    uniform, any_variant = picked("dense.w8", 100, uniform_locked), picked("p50s.w8", 60, 0.0)
    searched = picked("p50s.mixed-1", searched_bytes, locked)
    return seeds.SeedResult("abc", "credit", seed, 20 + seed % 2, 5.0, searched, uniform, any_variant, 0.9, 1.2)


def summed(*results: seeds.SeedResult, minimize: Minimize = Minimize.BYTES) -> seeds.Summary:
    return seeds.summary(results, minimize, 0.01)


def measurements(model: str, made_of: str = "code1 rows") -> tables.Measurements:
    row = tables.Row(model, "Olive int4", problem="it | failed")
    return tables.Measurements(model, made_of, "a machine", {"onnx": "1"}, Search(), 0.01, 0.9, (row,))


def test_dealing_keeps_every_row_once_and_lists_whole() -> None:
    validation, locked = answering.deal(LISTS, 4, seed=3)

    assert sorted([*validation, *locked]) == list(range(21))
    assert LISTS.groups is not None
    assert len(set(LISTS.groups[validation])) == 4
    assert not set(LISTS.groups[validation]) & set(LISTS.groups[locked])


def test_another_seed_deals_otherwise_and_an_equal_one_alike() -> None:
    rows = Split({"x": np.zeros(100)}, None, None)
    deals = [answering.deal(rows, 50, seed)[0].tolist() for seed in (1, 1, 2)]

    assert deals[0] == deals[1] != deals[2]


def test_lists_of_two_splits_with_equal_numbers_stay_two_lists() -> None:
    both = answering.joined(LISTS, LISTS)

    assert both.groups is not None
    assert len(np.unique(both.groups)) == 14
    assert both.rows == 42


def test_a_cut_takes_inputs_labels_and_lists_of_the_same_rows() -> None:
    part = answering.cut(LISTS, np.array([3, 5]))

    assert (part.inputs["x"].tolist(), part.labels, part.groups) == (
        [3, 5],
        pytest.approx([0, 1]),
        pytest.approx([1, 1]),
    )


def test_a_locked_loss_at_the_budget_is_within_it_and_the_worst_overshoot_is_told() -> None:
    found = summed(result(0, 0.01), result(1, 0.012), result(2, 0.015, uniform_locked=0.02))

    assert (found.over_budget, found.worst_overshoot) == (2, 0.005)
    assert (found.uniform_over_budget, found.uniform_worst_overshoot) == (1, 0.01)


def test_saved_bytes_are_shares_of_the_best_uniform_file_of_the_same_deal() -> None:
    found = summed(result(0, 0, 50), result(1, 0, 80), result(2, 0, 120))

    assert (found.saved_median, found.saved_least) == (0.2, -0.2)
    assert found.saved_any_variant_least == -1.0


def test_where_latency_is_minimized_time_is_what_is_saved() -> None:
    found = summed(result(0, 0), minimize=Minimize.LATENCY)

    assert (found.saved_median, found.saved_any_variant_median) == (0.1, -0.2)


def test_a_deal_without_a_choice_is_counted_and_saves_nothing() -> None:
    found = summed(replace(result(0, 0), searched=None, latency_ratio=None))

    assert (found.none_found, found.over_budget, found.saved_median) == (1, 0, None)


def test_a_deal_without_a_certified_uniform_file_is_counted_apart() -> None:
    found = summed(result(0, 0), replace(result(1, 0), uniform=None, latency_ratio=None))

    assert (found.no_uniform, found.deals, found.search_seeds) == (1, 2, 2)
    assert tables.seed_cells(found)[tables.SEED_HEADERS.index("uniform over")] == "0 of 1"


@pytest.mark.parametrize(("made_of", "is_used"), [("abc", True), ("other code", False)])
def test_a_result_of_other_code_or_exports_is_measured_again(tmp_path: Path, made_of: str, is_used: bool) -> None:
    (tmp_path / "0.json").write_bytes(readable_json(plain(result(0, 0.0))))

    assert (seeds.read_result(tmp_path / "0.json", made_of) is not None) is is_used


def test_models_measured_one_at_a_time_come_into_one_table(tmp_path: Path) -> None:
    for model in ("fashion", "credit"):
        tables.keep(tmp_path, replace(measurements(model), seeds=summed(result(0, 0))))

    found = tables.combined(tmp_path, Minimize.BYTES, ("credit", "diagnosis", "fashion"))

    assert [one.model for one in found] == ["credit", "fashion"]
    assert "credit · Olive int4" in tables.markdown(found, "code1")
    assert not tables.combined(tmp_path, Minimize.LATENCY, ("credit",))


def test_rows_of_an_earlier_version_of_the_code_are_marked() -> None:
    words = tables.markdown((measurements("credit"), measurements("fashion", "code2 rows")), "code2")

    assert "credit: measured by an earlier version" in words
    assert "fashion: measured by an earlier version" not in words


def test_a_bar_in_a_sentence_does_not_break_the_table() -> None:
    words = tables.markdown((measurements("credit"),), "code1")

    assert "it / failed" in words
