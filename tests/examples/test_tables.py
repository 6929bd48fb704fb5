import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from pipeline.core.errors import DataError
from pipeline.examples.tables import Shares, learn_preparation, numbers, one_hot, read_table, signed_log, split_table

SHARES = Shares(calibration=10, validation=20, test=30)
ROWS = 160


def table(rows: int = ROWS):
    rng = np.random.default_rng(3)
    raw = np.stack([np.arange(rows, dtype=np.float64), rng.normal(5, 2, rows), np.ones(rows)], axis=1)
    raw[::7, 1] = np.nan
    return ["row", "value", "constant"], raw, (np.arange(rows) % 4 == 0).astype(np.float64)


def rows_of(splits, preparation):
    scale, mean = preparation.scale[0], preparation.mean[0]
    return {name: np.rint(part["features"][:, 0] * scale + mean).astype(int) for name, part in splits.items()}


def test_splits_have_their_sizes_share_no_row_and_lose_none():
    splits, preparation = split_table(*table(), SHARES, seed=1)
    rows = rows_of(splits, preparation)
    assert {name: len(part) for name, part in rows.items()} == {
        "train": 100,
        "calibration": 10,
        "validation": 20,
        "test": 30,
    }
    assert sorted(np.concatenate(list(rows.values()))) == list(range(ROWS))


def test_labels_stay_with_their_rows():
    splits, preparation = split_table(*table(), SHARES, seed=1)
    for name, rows in rows_of(splits, preparation).items():
        np.testing.assert_array_equal(splits[name]["y"], rows % 4 == 0)


def test_equal_seeds_give_equal_splits_and_another_seed_gives_others():
    first, again, other = (split_table(*table(), SHARES, seed)[0]["test"]["features"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_outside_training_change_nothing_that_is_learned():
    columns, raw, labels = table()
    splits, preparation = split_table(columns, raw, labels, SHARES, seed=1)
    outside = np.concatenate([rows for name, rows in rows_of(splits, preparation).items() if name != "train"])
    poisoned = raw.copy()
    poisoned[outside] = 1e9
    after_splits, after = split_table(columns, poisoned, labels, SHARES, seed=1)
    assert after == preparation
    np.testing.assert_array_equal(after_splits["train"]["features"], splits["train"]["features"])


def test_missing_values_become_the_training_median_and_constants_do_not_divide_by_zero():
    columns, raw, _ = table()
    preparation = learn_preparation(columns, raw)
    features = preparation.apply(raw)
    assert np.isfinite(features).all()
    expected = (np.nanmedian(raw[:, 1]) - preparation.mean[1]) / preparation.scale[1]
    np.testing.assert_allclose(features[::7, 1], expected, rtol=1e-6)
    np.testing.assert_array_equal(features[:, 2], 0)


@given(
    nps.arrays(np.float64, st.tuples(st.integers(2, 40), st.integers(1, 4)), elements=st.floats(-1e6, 1e6, width=32))
)
def test_training_features_have_mean_zero_and_deviation_at_most_one(raw):
    names = [f"c{index}" for index in range(raw.shape[1])]
    features = learn_preparation(names, raw).apply(raw).astype(np.float64)
    assert np.all(np.abs(features.mean(axis=0)) < 1e-3)
    assert np.all(features.std(axis=0) < 1 + 1e-3)


@given(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12))
def test_signed_log_keeps_order_and_sign(left, right):
    a, b = signed_log(np.array([left, right]))
    assert np.sign(a) == np.sign(left)
    if left < right:
        assert a <= b


def test_a_constant_column_whose_mean_rounds_does_not_become_noise():
    raw = np.full((24, 1), 28340.54078272)
    np.testing.assert_allclose(learn_preparation(["c"], raw).apply(raw), 0, atol=1e-6)


def test_levels_that_were_not_named_are_a_row_of_zeros():
    np.testing.assert_array_equal(one_hot(["a", "", "c", "b"], ["a", "b"]), [[1, 0], [0, 0], [0, 0], [0, 1]])


def test_empty_text_is_a_missing_number():
    np.testing.assert_array_equal(numbers(["1.5", "", "-2"]), [1.5, np.nan, -2])


def test_a_short_row_is_refused_with_its_line():
    with pytest.raises(DataError, match="line 3: 1 fields instead of 2"):
        read_table(b"a,b\n1,2\n3\n", "table.csv")


def test_columns_come_by_name():
    assert read_table(b"a, b\n1, x\n2, y\n", "table.csv") == {"a": ["1", "2"], "b": ["x", "y"]}
