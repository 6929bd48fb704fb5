"""Tensors of the protocol: what goes in comes out, and nothing else gets in."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.bundle.io_contract import TensorContract
from pipeline.core.errors import DataError
from pipeline.runtime.http import tensors
from pipeline.runtime.http.tensors import DATATYPES

DTYPES = st.sampled_from(sorted(DATATYPES))


def plan(dtype, rank):
    return tensors.plan_tensor(TensorContract("x", dtype, (-1,) * rank))


@st.composite
def arrays(draw):
    dtype = np.dtype(draw(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    elements = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else None
    return draw(hnp.arrays(dtype, shape, elements=elements))


@settings(max_examples=40)
@given(arrays(), st.booleans())
def test_json_gives_back_the_array(array, flat):
    data = array.ravel().tolist() if flat else array.tolist()
    read = tensors.from_json(plan(array.dtype.name, array.ndim), array.dtype, array.shape, data)
    assert read.dtype == array.dtype and np.array_equal(read, array)


@settings(max_examples=40)
@given(arrays(), st.integers(0, 7))
def test_bytes_give_back_the_array_wherever_they_start(array, start):
    body = b"#" * start + array.tobytes()
    read = tensors.from_bytes(plan(array.dtype.name, array.ndim), array.dtype, array.shape, body, start, array.nbytes)
    assert read.dtype == array.dtype and read.flags.aligned and np.array_equal(read, array)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)


@settings(max_examples=40)
@given(DTYPES, DTYPES, json_values, st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_any_data_is_an_array_of_the_contract_or_refused(contract, declared, data, shape):
    target = plan(contract, len(shape))
    try:
        dtype = tensors.check_datatype(target, DATATYPES[declared])
        read = tensors.from_json(target, dtype, tensors.check_shape(target, shape), data)
    except DataError:
        return
    assert read.dtype == contract and read.shape == tuple(shape)
    assert read.dtype.kind != "f" or np.isfinite(read).all()


def test_text_among_numbers_costs_no_memory():
    many = ["a" * 100_000] + [1.0] * 99_999  # as an array of text: 40 GB
    with pytest.raises(DataError, match="only numbers"):
        tensors.from_json(plan("float32", 1), np.dtype("float32"), (100_000,), many)


@pytest.mark.parametrize(("contract", "declared"), [("int32", "FP32"), ("bool", "INT8"), ("int8", "FP16")])
def test_a_datatype_that_would_lose_its_meaning_is_refused(contract, declared):
    with pytest.raises(DataError, match="convert it"):
        tensors.check_datatype(plan(contract, 1), declared)
