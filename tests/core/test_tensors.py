import io
import mmap
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from pipeline.core.errors import DataError
from pipeline.core.tensors import cast_tensors, decode_npz, encode_npz, map_npz

NAMES = st.from_regex(r"[a-z][a-z0-9_:/.-]{0,10}", fullmatch=True).filter(lambda name: not name.endswith(".npy"))
DTYPES = st.sampled_from(["float32", "float16", "float64", "int8", "int32", "int64", "uint8", "bool", "<U3"])
ARRAYS = nps.arrays(DTYPES, nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
TENSORS = st.dictionaries(NAMES, ARRAYS, max_size=4)


def assert_equal(found, expected):
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


@given(TENSORS)
def test_tensors_are_read_back_as_written(tensors):
    assert_equal(decode_npz(encode_npz(tensors), "it", DataError), tensors)


@settings(max_examples=50)
@given(tensors=TENSORS)
def test_mapped_tensors_are_the_written_ones(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    path.write_bytes(encode_npz(tensors))
    assert_equal(map_npz(path, DataError), tensors)


@given(TENSORS, st.randoms())
def test_equal_tensors_give_equal_bytes_in_any_order(tensors, random):
    shuffled = list(tensors.items())
    random.shuffle(shuffled)
    assert encode_npz(dict(shuffled)) == encode_npz({name: array.copy() for name, array in tensors.items()})


@pytest.mark.parametrize("name", ["file", "args", "kwds", "allow_pickle"])
def test_a_tensor_may_have_any_name(name):
    assert_equal(decode_npz(encode_npz({name: np.arange(3)}), "it", DataError), {name: np.arange(3)})


def test_bytes_do_not_depend_on_the_date(monkeypatch):
    before = encode_npz({"a": np.arange(3)})
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    assert encode_npz({"a": np.arange(3)}) == before


def test_uncompressed_members_are_mapped_read_only_and_compressed_ones_are_read(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.savez(tmp_path / "mapped.npz", a=array, fortran=np.asfortranarray(array))
    np.savez_compressed(tmp_path / "read.npz", a=array)
    mapped = map_npz(tmp_path / "mapped.npz", DataError)
    assert isinstance(mapped["a"], np.memmap)
    assert isinstance(mapped["a"].base, mmap.mmap)
    assert not mapped["a"].flags.writeable
    np.testing.assert_array_equal(mapped["fortran"], array)
    assert not isinstance(map_npz(tmp_path / "read.npz", DataError)["a"], np.memmap)


def pickled(save=np.savez) -> bytes:
    stream = io.BytesIO()
    save(stream, a=np.array([{"rm": "-rf"}], dtype=object))
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pickled_objects_are_refused(tmp_path, save):
    with pytest.raises(DataError, match="plain arrays"):
        decode_npz(pickled(save), "it", DataError)
    (tmp_path / "a.npz").write_bytes(pickled(save))
    with pytest.raises(DataError, match="plain arrays"):
        map_npz(tmp_path / "a.npz", DataError)


def test_objects_are_not_written():
    with pytest.raises(ValueError, match="pickle"):
        encode_npz({"a": np.array([object()])})


def written(save) -> bytes:
    stream = io.BytesIO()
    save(stream, a=np.arange(40, dtype=np.float32), b=np.ones((3, 2), np.int32))
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, save):
    data = written(save)
    path = tmp_path / "a.npz"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(DataError):
            map_npz(path, DataError)
        with pytest.raises(DataError):
            decode_npz(data[:length], "it", DataError)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@settings(max_examples=60)
@given(data=st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(tmp_path_factory, save, data):
    whole = bytearray(written(save))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.npz"
    path.write_bytes(whole)
    for reader in (lambda: map_npz(path, DataError), lambda: decode_npz(bytes(whole), "it", DataError)):
        try:
            assert all(isinstance(array, np.ndarray) for array in reader().values())
        except DataError as error:
            assert "\n" not in str(error)


def crafted(descr: str, shape: str, compression: int) -> bytes:
    """Return an npz whose one member says of itself what its sixteen bytes do not hold."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + bytes(16))
    return stream.getvalue()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize(
    ("descr", "shape"),
    [
        ("'<f4'", "(10000000000000,)"),
        ("'<f4'", "(4294967296, 4294967296)"),
        ("'<f4'", "(9223372036854775807, 9223372036854775807)"),
        ("'<f4'", f"(1{'0' * 30},)"),
        ("'<f4'", f"({'9' * 5000},)"),
        ("'<f4'", "(-4,)"),
        ("'<f4'", "(-1, -4)"),
        ("'<f4'", "(True,)"),
        ("'<f4'", f"({'-' * 9000}1,)"),
        ("'<f4'", f"{'(' * 500}{')' * 500}"),
        ("('<f4', (2147483647, 2147483647))", "(1,)"),
        ("'<U99999999999'", "(1,)"),
        ("[('a', '|O')]", "(1,)"),
    ],
)
def test_a_header_that_lies_about_its_array_is_refused(tmp_path, descr, shape, compression):
    (tmp_path / "crafted.npz").write_bytes(crafted(descr, shape, compression))
    with pytest.raises(DataError, match="plain arrays"):
        map_npz(tmp_path / "crafted.npz", DataError)
    with pytest.raises(DataError, match="plain arrays"):
        decode_npz((tmp_path / "crafted.npz").read_bytes(), "it", DataError)


@pytest.mark.parametrize("name", ["a.npy", "a.txt"])
def test_a_member_that_is_no_array_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr(name, b"words")
    with pytest.raises(DataError, match="plain arrays"):
        map_npz(tmp_path / "odd.npz", DataError)
    with pytest.raises(DataError, match="plain arrays"):
        decode_npz((tmp_path / "odd.npz").read_bytes(), "it", DataError)


def test_a_single_array_in_place_of_an_npz_is_refused():
    stream = io.BytesIO()
    np.save(stream, np.zeros(3))
    with pytest.raises(DataError, match="plain arrays"):
        decode_npz(stream.getvalue(), "it", DataError)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        map_npz(tmp_path / "none.npz", DataError)


@pytest.mark.parametrize(
    ("given_as", "taken_as"), [("float64", "float32"), ("int64", "int32"), ("int64", "float32"), ("bool", "float32")]
)
def test_numbers_are_cast_to_what_the_model_takes(given_as, taken_as):
    array = np.array([[1, 0], [1, 1]]).astype(given_as)
    cast = cast_tensors({"x": array, "more": array}, {"x": taken_as}, "rows.npz")
    assert (cast["x"].dtype, cast["more"].dtype) == (taken_as, given_as)
    np.testing.assert_array_equal(cast["x"], array)


@pytest.mark.parametrize(
    ("array", "taken_as", "words"),
    [
        (np.array([0.5]), "int32", "'x' holds float64 where the model takes int32"),
        (np.array([2**31]), "int32", "beyond int32"),
        (np.array([1e300]), "float32", "beyond float32"),
    ],
)
def test_a_cast_that_would_change_numbers_is_refused(array, taken_as, words):
    with pytest.raises(DataError, match=words):
        cast_tensors({"x": array}, {"x": taken_as}, "rows.npz")
