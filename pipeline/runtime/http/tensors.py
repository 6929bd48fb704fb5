"""Tensors of the Open Inference Protocol v2: JSON numbers or raw bytes in, arrays of the contract's types out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from pipeline.bundle.io_contract import TensorContract
from pipeline.core.errors import DataError
from pipeline.core.tensors import Array, cast_tensors

DATATYPES: Mapping[str, str] = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
DATATYPE_OF = {
    np.dtype(order + np.dtype(name).str[1:]): datatype for name, datatype in DATATYPES.items() for order in "<>"
}
_DTYPES = {datatype: np.dtype(dtype).newbyteorder("<") for dtype, datatype in DATATYPES.items()}
# Python types a JSON number of a datatype may have: true is no number, 1.5 no integer.
_JSON_TYPES: Mapping[str, frozenset[type]] = {
    "f": frozenset({int, float}),
    "i": frozenset({int}),
    "u": frozenset({int}),
    "b": frozenset({bool}),
}
_WIDEST = {"f": np.dtype("float64"), "i": np.dtype("int64"), "u": np.dtype("uint64"), "b": np.dtype("bool")}


@dataclass(frozen=True)
class TensorPlan:
    """One input of a model, ready to be read."""

    name: str
    datatype: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]  # -1 = free


def plan_tensor(contract: TensorContract) -> TensorPlan:
    """Look a contract's tensor up in the protocol's terms."""
    return TensorPlan(contract.name, DATATYPES[contract.dtype], np.dtype(contract.dtype), contract.shape)


def check_shape(plan: TensorPlan, shape: object) -> tuple[int, ...]:
    """Return the shape of a request's tensor; raises DataError when the model does not take it."""
    if (
        type(shape) is list
        and len(shape) == len(plan.shape)
        and all(
            type(size) is int and size > 0 and want in (-1, size) for size, want in zip(shape, plan.shape, strict=True)
        )
    ):
        return tuple(shape)
    raise DataError(
        f"input {plan.name!r}: 'shape' must be {list(plan.shape)} (-1: any number from 1 on), as the model takes."
    )


def check_datatype(plan: TensorPlan, datatype: object) -> np.dtype[np.generic]:
    """Return the dtype a request declares for an input; raises DataError for one the model cannot take."""
    if datatype == plan.datatype:
        return plan.dtype
    if datatype == "BYTES":
        raise DataError(f"input {plan.name!r}: BYTES are not supported, the model takes {plan.datatype} numbers.")
    dtype = _DTYPES.get(datatype) if isinstance(datatype, str) else None
    if dtype is None:
        raise DataError(f"input {plan.name!r}: 'datatype' must be one of {', '.join(_DTYPES)}; send {plan.datatype}.")
    if not np.can_cast(dtype, plan.dtype, "same_kind"):
        raise DataError(f"input {plan.name!r}: the model takes {plan.datatype}, not {datatype}; convert it.")
    return dtype


def from_json(plan: TensorPlan, dtype: np.dtype[np.generic], shape: tuple[int, ...], data: object) -> Array:
    """Make an array of JSON numbers, flat or nested, that were declared as ``dtype``; raises DataError."""
    numbers = _flat(plan.name, shape, data)
    if not _JSON_TYPES[dtype.kind].issuperset(map(type, numbers)):
        raise DataError(f"input {plan.name!r}: 'data' must hold only {_words(dtype)} of {DATATYPES[dtype.name]}.")
    try:
        with np.errstate(over="ignore"):
            array = np.array(numbers, plan.dtype if plan.dtype.kind == "f" else _WIDEST[dtype.kind])
    except OverflowError as error:
        raise DataError(f"input {plan.name!r}: a number is beyond {plan.datatype}; correct it.") from error
    return _fitted(plan, array).reshape(shape)


def from_bytes(
    plan: TensorPlan, dtype: np.dtype[np.generic], shape: tuple[int, ...], body: bytes, start: int, size_bytes: int
) -> Array:
    """View the part of a body as an array of ``dtype``, little-endian; raises DataError."""
    needed = math.prod(shape) * dtype.itemsize
    if size_bytes != needed:
        raise DataError(
            f"input {plan.name!r}: {list(shape)} of {DATATYPES[dtype.name]} are {needed} bytes, 'binary_data_size' says"
            f" {size_bytes}."
        )
    if start + size_bytes > len(body):
        raise DataError(f"input {plan.name!r}: the body ends before its binary data.")
    array = np.frombuffer(body, np.uint8 if dtype.kind == "b" else dtype, math.prod(shape), start)
    if dtype.kind == "b":
        if array.max() > 1:
            raise DataError(f"input {plan.name!r}: a BOOL is one byte, 0 or 1.")
        array = array.view(np.bool_)
    if not array.flags.aligned:
        array = array.copy()
    return _fitted(plan, array).reshape(shape)


def check_rows(plans: Sequence[TensorPlan], inputs: Mapping[str, Array]) -> None:
    """Raise DataError unless all inputs with a free first axis have the same number of rows."""
    rows = {inputs[plan.name].shape[0] for plan in plans if plan.shape[0] == -1}
    if len(rows) > 1:
        raise DataError(
            f"the inputs have different numbers of rows ({', '.join(map(str, sorted(rows)))}); send the same."
        )


def _flat(name: str, shape: tuple[int, ...], data: object) -> list[Any]:
    """Return the numbers of ``data`` in row-major order; a nested list must have the very shape."""
    if type(data) is not list or not data:
        raise DataError(f"input {name!r}: 'data' must be a list of numbers.")
    if type(data[0]) is not list:
        if len(data) != math.prod(shape):
            raise DataError(
                f"input {name!r}: the shape {list(shape)} needs {math.prod(shape)} numbers, 'data' has {len(data)}."
            )
        return data
    level: list[Any] = [data]
    for size in shape:
        if {type(item) for item in level} != {list} or {len(item) for item in level} != {size}:
            raise DataError(f"input {name!r}: the nested lists of 'data' do not have the shape {list(shape)}.")
        level = list(chain.from_iterable(level))
    return level


def _fitted(plan: TensorPlan, array: Array) -> Array:
    # An input that is not finite would make outputs that are not, and those count against the member that gave them.
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError(f"input {plan.name!r} holds numbers beyond {plan.datatype}, NaN or infinity; correct them.")
    if array.dtype == plan.dtype:
        return array
    return cast_tensors({plan.name: array}, {plan.name: plan.dtype}, "the request")[plan.name]


def _words(dtype: np.dtype[np.generic]) -> str:
    return {"f": "numbers", "b": "true and false"}.get(dtype.kind, "whole numbers")
