import mmap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DataError
from pipeline.data.splits import Split, batches, open_split

ROWS = 10


def good() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "features": rng.standard_normal((ROWS, 3)).astype(np.float32),
        "y": np.arange(ROWS, dtype=np.float32) % 2,
        "group": np.repeat(np.arange(2), 5).astype(np.int32),
    }


def write(folder, save=np.savez, **changes):
    tensors = {name: value for name, value in {**good(), **changes}.items() if value is not None}
    path = folder / "split.npz"
    save(path, **tensors)
    return path


def refusal(path, names=("features",)) -> str:
    with pytest.raises(DataError) as caught:
        open_split(path, names)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert message.endswith(".")
    return message


def test_inputs_labels_and_groups_come_back_as_written(tmp_path):
    split = open_split(write(tmp_path), ["features"])
    np.testing.assert_array_equal(split.inputs["features"], good()["features"])
    np.testing.assert_array_equal(split.labels, good()["y"])
    np.testing.assert_array_equal(split.groups, good()["group"])
    assert split.rows == ROWS


def test_arrays_are_mapped_from_the_file_and_not_read_into_memory(tmp_path):
    split = open_split(write(tmp_path), ["features"])
    array = split.inputs["features"]
    assert isinstance(array, np.memmap)
    assert isinstance(array.base, mmap.mmap)
    assert not array.flags.writeable


def test_a_batch_is_a_view_of_the_mapped_file(tmp_path):
    split = open_split(write(tmp_path), ["features"])
    first = next(batches(split, 4))["features"]
    assert np.shares_memory(first, split.inputs["features"])


def test_labels_and_groups_may_be_missing(tmp_path):
    split = open_split(write(tmp_path, y=None, group=None), ["features"])
    assert split.labels is None
    assert split.groups is None
    assert split.weights is None


def test_rows_may_be_weighed(tmp_path):
    split = open_split(write(tmp_path, weight=np.ones(ROWS, np.float32)), ["features"])
    np.testing.assert_array_equal(split.weights, np.ones(ROWS))


def test_a_model_may_have_an_input_called_weight(tmp_path):
    split = open_split(write(tmp_path, weight=np.ones(ROWS, np.float32)), ["features", "weight"])
    assert sorted(split.inputs) == ["features", "weight"]
    assert split.weights is None


def test_the_only_input_may_be_called_x(tmp_path):
    path = write(tmp_path, features=None, x=good()["features"])
    assert list(open_split(path, ["dense_1_input"]).inputs) == ["dense_1_input"]


def test_x_does_not_stand_for_one_of_several_inputs(tmp_path):
    path = write(tmp_path, features=None, x=good()["features"], b=good()["features"])
    assert "'a'" in refusal(path, ["a", "b"])


def test_a_column_of_labels_is_taken_as_one_label_a_row(tmp_path):
    split = open_split(write(tmp_path, y=good()["y"][:, None]), ["features"])
    np.testing.assert_array_equal(split.labels, good()["y"])


def test_labels_of_several_numbers_a_row_keep_their_shape(tmp_path):
    path = write(tmp_path, y=np.ones((ROWS, 2, 3), np.float32))
    assert open_split(path, ["features"]).labels.shape == (ROWS, 2, 3)


@pytest.mark.parametrize("key", ["group", "weight"])
def test_lists_and_weights_of_several_numbers_a_row_are_refused(tmp_path, key):
    said = refusal(write(tmp_path, **{key: np.ones((ROWS, 2), np.float32)}))
    assert key in said
    assert f"({ROWS}, 2)" in said


def test_arrays_that_name_slices_are_kept_apart_from_the_inputs(tmp_path):
    region = np.array(["north", "south"] * (ROWS // 2))
    split = open_split(write(tmp_path, region=region, age=np.arange(ROWS)[:, None]), ["features"], ["region", "age"])
    assert list(split.inputs) == ["features"]
    np.testing.assert_array_equal(split.slices["region"], region)
    np.testing.assert_array_equal(split.slices["age"], np.arange(ROWS))


@pytest.mark.parametrize(("region", "words"), [(None, "no array 'region'"), (np.ones((ROWS, 2)), "one value a row")])
def test_a_slice_that_names_no_rows_is_refused(tmp_path, region, words):
    path = write(tmp_path, region=region)
    with pytest.raises(DataError, match=words):
        open_split(path, ["features"], ["region"])


def test_a_missing_file_is_named(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere.npz")


def test_a_missing_input_is_named_with_what_is_there(tmp_path):
    message = refusal(write(tmp_path), ["user_id"])
    assert "'user_id'" in message
    assert "features, group, y" in message


@pytest.mark.parametrize("name", ["features", "y", "group"])
def test_unequal_row_counts_are_refused_with_every_count(tmp_path, name):
    message = refusal(write(tmp_path, **{name: good()[name][:-1]}))
    assert f"{name} {ROWS - 1}" in message
    assert str(ROWS) in message


def test_zero_rows_are_refused(tmp_path):
    message = refusal(write(tmp_path, **{name: value[:0] for name, value in good().items()}))
    assert "no rows" in message


def test_an_array_without_a_rows_axis_is_refused(tmp_path):
    assert "y has no rows axis" in refusal(write(tmp_path, y=np.float32(1)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_counted_and_the_first_is_named(tmp_path, bad):
    features = good()["features"]
    features[[4, 7], 1] = bad
    features[4, 2] = bad
    message = refusal(write(tmp_path, features=features))
    assert "2 of 10 rows of features" in message
    assert "row 4" in message


def test_labels_that_are_not_finite_are_refused(tmp_path):
    labels = good()["y"]
    labels[9] = np.nan
    assert "1 of 10 rows of y" in refusal(write(tmp_path, y=labels))


def test_a_bad_row_far_into_a_long_file_is_found(tmp_path):
    labels = np.zeros(150_001, np.float32)
    labels[-1] = np.nan
    path = write(tmp_path, features=np.zeros((150_001, 1), np.float32), y=labels, group=None)
    assert "the first is row 150000" in refusal(path)


def test_text_is_not_taken_for_numbers(tmp_path):
    assert "not numbers" in refusal(write(tmp_path, y=np.array(["yes"] * ROWS)))


def test_pickled_objects_are_refused(tmp_path):
    objects = np.array([{"a": 1}] * ROWS, dtype=object)
    assert "plain arrays" in refusal(write(tmp_path, y=objects))


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    path = tmp_path / "split.npz"
    path.write_bytes(b"PK\x03\x04 but not really")
    assert "npz" in refusal(path)


def test_compressed_files_are_read_too(tmp_path):
    split = open_split(write(tmp_path, save=np.savez_compressed), ["features"])
    np.testing.assert_array_equal(split.inputs["features"], good()["features"])


@given(rows=st.integers(1, 50), size=st.integers(1, 60))
def test_batches_hold_every_row_once_and_in_order(rows, size):
    split = Split({"a": np.arange(rows), "b": np.arange(rows) * 2}, None, None)
    made = list(batches(split, size))
    assert all(1 <= len(batch["a"]) <= size for batch in made)
    np.testing.assert_array_equal(np.concatenate([batch["a"] for batch in made]), np.arange(rows))
    np.testing.assert_array_equal(np.concatenate([batch["b"] for batch in made]), np.arange(rows) * 2)


def test_a_batch_of_no_rows_is_refused():
    with pytest.raises(DataError, match="0 rows"):
        list(batches(Split({"a": np.arange(3)}, None, None), 0))
