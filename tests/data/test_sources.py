"""A person's data into four splits, whatever form it has; refused whole and in one sentence."""

import copy
import tracemalloc
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from pipeline.core.environment import SECRETS, STORE
from pipeline.core.errors import DataError, UsageError
from pipeline.data.sources import parse_columns, write_splits

ROWS = 400
SPLITS = ("calibration", "test", "train", "validation")


def arrays(rows: int = ROWS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "x": rng.normal(size=(rows, 3)).astype(np.float32),
        "y": rng.integers(0, 2, rows).astype(np.int32),
        "weight": np.ones(rows, np.float32),
        "region": np.array(["north", "south"])[rng.integers(0, 2, rows)],
    }


def split(spec: str, folder: Path, columns: Mapping[str, Sequence[str]] | None = None) -> dict[str, dict]:
    write_splits(spec, columns, folder / "splits", seed=5)
    assert sorted(path.name for path in (folder / "splits").iterdir()) == [f"{name}.npz" for name in SPLITS]
    found = {}
    for name in SPLITS:
        with np.load(folder / "splits" / f"{name}.npz") as archive:
            found[name] = dict(archive)
    return found


def refusal(spec: str, folder: Path, columns: Mapping[str, Sequence[str]] | None = None) -> str:
    with pytest.raises(DataError) as caught:
        write_splits(spec, columns, folder / "splits", seed=5)
    assert not (folder / "splits").exists()
    assert not list(folder.glob(".aside-*"))
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def npz(folder: Path, save=np.savez, **changes) -> str:
    path = folder / "rows.npz"
    save(path, **{name: array for name, array in {**arrays(), **changes}.items() if array is not None})
    return str(path)


def table(folder: Path, form: str, **changes) -> str:
    rng = np.random.default_rng(4)
    columns = {
        "age": rng.integers(18, 90, ROWS),
        "income": rng.normal(size=ROWS),
        "default": rng.integers(0, 2, ROWS),
        "city": ["a", "b"] * (ROWS // 2),
        "member": rng.integers(0, 2, ROWS).astype(bool),
    }
    made = pa.table({name: column for name, column in {**columns, **changes}.items() if column is not None})
    path = folder / f"rows.{form}"
    pyarrow.parquet.write_table(made, path) if form == "parquet" else pyarrow.csv.write_csv(made, path)
    return str(path)


FORMS = pytest.mark.parametrize("form", ["parquet", "csv"])
MAP = {"x": ["age", "income"], "y": ["default"]}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_row_is_in_one_split_with_all_that_belongs_to_it(tmp_path: Path, save) -> None:
    found = split(npz(tmp_path, save), tmp_path)
    whole = arrays()
    together = np.concatenate([found[name]["x"] for name in SPLITS])
    assert len(together) == ROWS
    order = [int(np.flatnonzero((whole["x"] == row).all(axis=1))[0]) for row in together]
    assert sorted(order) == list(range(ROWS))
    for key in ("y", "region", "weight"):
        np.testing.assert_array_equal(np.concatenate([found[name][key] for name in SPLITS]), whole[key][order])


def test_one_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    spec = npz(tmp_path)
    made = {}
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_splits(spec, None, tmp_path / name, seed)
        made[name] = (tmp_path / name / "train.npz").read_bytes()
    assert made["one"] == made["again"] != made["other"]


def test_rows_of_one_list_stay_together_and_in_order(tmp_path: Path) -> None:
    group = np.repeat(np.arange(300), 4).astype(np.int32)
    position = np.arange(1200, dtype=np.float32)[:, None]
    spec = npz(tmp_path, x=position, y=position[:, 0], group=group, weight=None, region=None)
    found = split(spec, tmp_path)
    lists = [set(found[name]["group"]) for name in SPLITS]
    assert sum(map(len, lists)) == 300 == len(set.union(*lists))
    assert all((np.diff(found[name]["x"][:, 0]) > 0).all() for name in SPLITS)


def test_labels_may_be_missing_or_have_many_values_a_row(tmp_path: Path) -> None:
    assert "y" not in split(npz(tmp_path, y=None), tmp_path)["train"]
    image = np.zeros((ROWS, 4, 4, 1), np.float32)
    assert split(npz(tmp_path, y=image), tmp_path)["train"]["y"].shape == (220, 4, 4, 1)


def test_arrays_of_an_npz_are_renamed_and_chosen_by_the_map(tmp_path: Path) -> None:
    found = split(npz(tmp_path), tmp_path, {"features": ["x"], "y": ["y"]})
    assert sorted(found["train"]) == ["features", "y"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": np.ones(ROWS - 1)}, "different row counts"),
        ({"x": np.full((ROWS, 3), np.nan, np.float32)}, f"{ROWS} of {ROWS} rows of x hold NaN"),
        ({"x": np.array([["a", "b"]] * ROWS)}, "not numbers"),
        ({"y": np.array(["yes"] * ROWS)}, "not numbers"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0), "weight": None, "region": None}, "no rows"),
        ({"x": None}, "no inputs"),
        ({"group": np.zeros(ROWS, np.int32)}, "1 lists (groups) are too few"),
        ({"group": np.zeros((ROWS, 2), np.int32)}, "one id a row"),
        ({"note": np.float32(3)}, "note has no rows axis"),
    ],
)
def test_arrays_that_no_stage_could_use_are_refused(tmp_path: Path, changes, words: str) -> None:
    # x without inputs: region alone is left, and text is no input of a model
    changes = {**changes, "region": None} if "x" in changes and changes["x"] is None else changes
    changes = {**changes, "weight": None} if changes.get("x", 0) is None else changes
    said = refusal(npz(tmp_path, **changes), tmp_path)
    assert words in said


def test_a_few_rows_are_too_few_and_an_old_result_stays(tmp_path: Path) -> None:
    split(npz(tmp_path), tmp_path)
    before = (tmp_path / "splits" / "train.npz").read_bytes()
    np.savez(tmp_path / "few.npz", x=np.ones((199, 2)))
    with pytest.raises(DataError, match="199 rows are too few"):
        write_splits(str(tmp_path / "few.npz"), None, tmp_path / "splits", 0)
    assert (tmp_path / "splits" / "train.npz").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"PAR1 no table", b"what,is\n\xff\xfe,1\n"])
@pytest.mark.parametrize("name", ["rows.npz", "rows.parquet", "rows.csv", "rows.txt", "missing"])
def test_files_that_are_no_data_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    if name != "missing":
        (tmp_path / name).write_bytes(content)
    assert name in refusal(str(tmp_path / name), tmp_path)


def test_a_file_that_unpacks_to_far_more_than_it_weighs_is_refused(tmp_path: Path) -> None:
    path = npz(tmp_path, np.savez_compressed, x=np.zeros((ROWS, 8000), np.float32))
    with zipfile.ZipFile(path, "a") as archive:
        first = archive.getinfo("x.npy")
        archive.filelist += [copy.copy(first) for _ in range(30)]
        archive._didModify = True
    assert "unpacks to 397 MB" in refusal(path, tmp_path)


def test_a_compressed_file_that_is_damaged_is_refused_by_its_own_name(tmp_path: Path) -> None:
    path = Path(npz(tmp_path, np.savez_compressed))
    data = bytearray(path.read_bytes())
    data[200:260] = bytes(60)
    path.write_bytes(data)
    assert str(path) in refusal(str(path), tmp_path)


def test_a_bit_that_flipped_in_a_file_that_is_mapped_is_noticed(tmp_path: Path) -> None:
    path = Path(npz(tmp_path))
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    assert "the bytes of x.npy do not fit its checksum" in refusal(str(path), tmp_path)


@FORMS
def test_columns_become_arrays_by_the_map(tmp_path: Path, form: str) -> None:
    chosen = {"x": ["age", "income"], "ids": ["age"], "flags": ["member", "default"], "y": ["default"]}
    found = split(table(tmp_path, form), tmp_path, chosen)["train"]
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "x": ("float32", (220, 2)),
        "ids": ("int32", (220, 1)),
        "flags": ("int32", (220, 2)),
        "y": ("int32", (220,)),
    }
    np.testing.assert_array_equal(found["x"][:, 0], found["ids"][:, 0])


@FORMS
def test_without_a_map_the_columns_beside_y_are_x(tmp_path: Path, form: str) -> None:
    columns = pyarrow.csv.read_csv(table(tmp_path, "csv"))
    renamed = {"city": None, "default": None, "y": columns["default"], "age": columns["age"]}
    found = split(table(tmp_path, form, **renamed), tmp_path)["train"]
    assert sorted(found) == ["x", "y"]
    assert found["x"].shape == (220, 3)


@FORMS
@pytest.mark.parametrize(
    ("changes", "columns", "words"),
    [
        ({}, None, "the column 'city' holds string"),
        ({}, {"x": ["age", "height"]}, "no column 'height' for 'x'; its columns are age, income"),
        ({}, {"x": ["age", "city"]}, "the column 'city' holds string"),
        ({}, {"x": []}, "no column makes the array 'x'"),
        ({"income": [0.5, None] * (ROWS // 2)}, MAP, "200 of 400 rows of the column 'income' are empty"),
        ({"age": [7] * 9 + [None] * 3 + [1] * (ROWS - 12)}, MAP, "3 of 400 rows of the column 'age' are empty"),
        ({"income": [float("nan")] * ROWS}, MAP, "400 of 400 rows of the column 'income'"),
        ({"default": None}, MAP, "no column 'default' for 'y'"),
    ],
)
def test_columns_that_no_stage_could_use_are_refused(tmp_path: Path, form: str, changes, columns, words: str) -> None:
    said = refusal(table(tmp_path, form, **changes), tmp_path, columns)
    assert words in said


@FORMS
def test_a_table_without_rows_is_refused(tmp_path: Path, form: str) -> None:
    empty = {name: pa.array([], pa.float64()) for name in ("age", "income", "default", "city", "member")}
    assert "no rows" in refusal(table(tmp_path, form, **empty), tmp_path, MAP)


def test_fractions_far_into_a_csv_that_began_with_whole_numbers_are_kept(tmp_path: Path) -> None:
    values = ["1"] * 400_000 + ["2.5"]
    path = tmp_path / "long.csv"
    path.write_text("income,default\n" + "\n".join(f"{value},1" for value in values))
    found = split(str(path), tmp_path, {"x": ["income"], "y": ["default"]})
    assert max(part["x"].max() for part in found.values()) == 2.5


def test_ids_in_a_csv_stay_apart_where_another_column_turns_to_fractions(tmp_path: Path) -> None:
    ids, path = 20_000_001 + np.arange(200_000) // 10, tmp_path / "long.csv"  # float32 knows the even ones alone
    values = ["1"] * 199_999 + ["2.5"]
    path.write_text(
        "income,group,default\n" + "\n".join(f"{value},{one},1" for value, one in zip(values, ids, strict=True))
    )
    found = split(str(path), tmp_path, {"x": ["income"], "group": ["group"], "y": ["default"]})
    assert sum(len(np.unique(part["group"])) for part in found.values()) == 20_000
    assert {(part["group"].dtype, part["y"].dtype) for part in found.values()} == {(np.dtype("i4"), np.dtype("i4"))}


def test_text_far_into_a_column_of_numbers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("income,default\n" + "1,1\n" * 400_000 + "many,1\n")
    assert "many" in refusal(str(path), tmp_path, {"x": ["income"], "y": ["default"]})


def test_lists_of_one_length_are_rows_of_an_array(tmp_path: Path) -> None:
    signal = np.random.default_rng(1).normal(size=(ROWS, 16)).astype(np.float32)
    columns = {"signal": pa.array(signal.tolist(), pa.list_(pa.float32())), "y": np.arange(ROWS)}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "s.parquet")
    found = split(str(tmp_path / "s.parquet"), tmp_path, {"signal": ["signal"], "y": ["y"]})["train"]
    np.testing.assert_array_equal(found["signal"], signal[found["y"]])
    uneven = [[1.0] * 3] * 399 + [[1.0] * 2]
    pyarrow.parquet.write_table(pa.table({"signal": uneven}), tmp_path / "u.parquet")
    assert "differ in length" in refusal(str(tmp_path / "u.parquet"), tmp_path / "again", {"signal": ["signal"]})


def test_ids_beyond_int32_are_not_cut(tmp_path: Path) -> None:
    big = np.arange(ROWS) + 2**40
    pyarrow.parquet.write_table(pa.table({"id": big, "y": big % 2}), tmp_path / "b.parquet")
    found = split(str(tmp_path / "b.parquet"), tmp_path, {"id": ["id"], "y": ["y"]})["test"]
    assert found["id"].dtype == np.int64
    assert found["id"].min() >= 2**40


FUNCTIONS = """
import os
import sys
import numpy as np
print("chatter on standard output")
rows = {"x": np.arange(800.0).reshape(400, 2), "y": np.arange(400) % 2}
def whole(): return rows
def secrets(): raise ValueError(f"secrets {sorted(key for key, value in os.environ.items() if value == 'a secret')}")
def parted(): return {name: {key: value[:50] for key, value in rows.items()} for name in
                      ("train", "calibration", "validation", "test")}
def half(): return {"train": rows, "test": rows}
def fails(): raise ValueError("the database\\nis away")
def ends(): sys.exit(3)
def nothing(): return None
def objects(): return {"x": [object()] * 400}
def hollow(): return {"x": np.full((400, 1), np.nan)}
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rows.py").write_text(FUNCTIONS)
    return tmp_path


def test_a_function_gives_rows_or_splits(own_code: Path) -> None:
    assert split("own_rows:whole", own_code)["train"]["x"].shape == (220, 2)
    parted = split("own_rows:parted", own_code)
    assert {name: part["x"].shape for name, part in parted.items()} == dict.fromkeys(SPLITS, (50, 2))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fails", "failed with ValueError: the database is away"),
        ("ends", "ended its process with code 3"),
        ("nothing", "returned NoneType, not a mapping"),
        ("objects", "returned 'x' as list"),
        ("half", "returned test, train; return arrays, or all of train, calibration, validation, test"),
        ("hollow", "400 of 400 rows of x hold NaN"),
        ("absent", "has no function absent; correct the name"),
    ],
)
def test_a_function_that_fails_is_told_in_one_sentence(own_code: Path, name: str, words: str) -> None:
    said = refusal(f"own_rows:{name}", own_code)
    assert words in said
    assert said.startswith(f"own_rows:{name}")


def test_files_of_the_current_folder_are_not_taken_for_libraries(own_code: Path) -> None:
    for name in ("json", "numpy", "zipfile"):
        (own_code / f"{name}.py").write_text("raise SystemExit('taken for a library')")
    assert split("own_rows:whole", own_code)["train"]["x"].shape == (220, 2)
    assert "hides yours: rename json" in refusal("json:whole", own_code / "again")


def test_splits_of_other_names_are_not_written(own_code: Path) -> None:
    (own_code / "own_rows.py").write_text(FUNCTIONS + "def outside(): return {'../../loot': rows}")
    assert "returned ../../loot; return arrays" in refusal("own_rows:outside", own_code)
    assert not list(own_code.rglob("loot*"))


def test_a_function_inherits_no_secret_but_the_key_of_a_bucket_that_it_may_read(
    own_code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "a secret")
    assert f"ValueError: secrets {sorted(STORE)}" in refusal("own_rows:secrets", own_code)


def test_memory_does_not_grow_with_a_file_that_is_mapped(tmp_path: Path) -> None:
    big = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (200_000, 128))  # 102 MB
    big[:] = 1
    np.savez(tmp_path / "big.npz", x=big, y=np.zeros(len(big), np.int32))
    del big
    tracemalloc.start()
    try:
        write_splits(str(tmp_path / "big.npz"), None, tmp_path / "splits", 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6
    assert (tmp_path / "splits" / "train.npz").stat().st_size > 50e6


def test_a_column_map_is_read_from_text() -> None:
    assert parse_columns("x=age, income;y=default") == {"x": ("age", "income"), "y": ("default",)}
    for wrong in ("", ";", "x", "x=", "=a", "x=a;x=b", "x=a,,b"):
        with pytest.raises(UsageError, match="column map"):
            parse_columns(wrong)
