"""Read the body of an inference request: JSON, with the binary tensor extension, against a model's contract."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.bundle.io_contract import IoContract
from pipeline.core.errors import DataError
from pipeline.core.tensors import Array
from pipeline.runtime.http import tensors
from pipeline.runtime.http.tensors import TensorPlan

# What the protocol's extensions define and this server does not do; to ignore them would change what was asked.
_REFUSED_PARAMETERS = ("sequence_id", "sequence_start", "sequence_end", "shared_memory_region", "classification")
_MARKS_MAX = 250_000
_NUMBERS_MAX = 500_000


@dataclass(frozen=True)
class RequestPlan:
    """What a model's requests hold, prepared once a bundle."""

    io: IoContract
    inputs: Mapping[str, TensorPlan]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class InferRequest:
    """One request: its tensors, and the outputs it wants as (name, as raw bytes)."""

    id: str | None
    inputs: Mapping[str, Array]
    outputs: tuple[tuple[str, bool], ...]
    timeout_ms: float | None


def plan_requests(io: IoContract) -> RequestPlan:
    """Prepare the reading of requests to a model."""
    inputs = {contract.name: tensors.plan_tensor(contract) for contract in io.inputs}
    return RequestPlan(io, inputs, tuple(contract.name for contract in io.outputs))


def read_request(plan: RequestPlan, body: bytes, head_bytes: int | None, tensors_max: int) -> InferRequest:
    """Read a body whose first ``head_bytes`` are JSON (None: all of it) and the rest raw tensors.

    Inputs have the contract's names, dtypes and shapes, and only finite numbers. Raises DataError with one sentence.
    """
    if head_bytes is not None and head_bytes > len(body):
        raise DataError("Inference-Header-Content-Length is more than the body's length; send its JSON part's length.")
    end = len(body) if head_bytes is None else head_bytes
    head = _object(_parse(body if end == len(body) else body[:end]), "the request")
    parameters = _parameters(head, "the request")
    request_id = head.get("id")
    if request_id is not None and type(request_id) is not str:
        raise DataError("'id' must be text.")
    return InferRequest(
        request_id,
        _inputs(plan, _list(head.get("inputs"), "inputs", tensors_max), body, end),
        _outputs(plan, head.get("outputs"), _flag(parameters, "binary_data_output", False), tensors_max),
        _timeout_ms(parameters.get("timeout")),
    )


def _parse(text: bytes) -> object:
    # While JSON is read the whole server waits: for seconds at millions of lists, objects or keys, at numbers for
    # a tenth of a microsecond each.
    if len(text) > _MARKS_MAX and any(text.count(mark) > _MARKS_MAX for mark in (b"[", b"{", b'"')):
        raise DataError(f"the request has more than {_MARKS_MAX} lists; send 'data' flat, or as binary data.")
    if len(text) > _NUMBERS_MAX and text.count(b",") > _NUMBERS_MAX:
        raise DataError(f"the request has more than {_NUMBERS_MAX} numbers in JSON; send binary data, or fewer rows.")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DataError(f"the request is not JSON: {error.msg} (character {error.pos}).") from error


def _object(value: object, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise DataError(f"{what} must be a JSON object.")
    return value


def _list(value: object, what: str, most: int) -> list[Any]:
    if type(value) is not list or not value:
        raise DataError(f"{what!r} must be a list of tensors.")
    if len(value) > most:
        raise DataError(f"{what!r} lists {len(value)} tensors, at most {most} are read.")
    return value


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    value = holder.get("parameters")
    if value is None:
        return {}
    parameters = _object(value, f"'parameters' of {what}")
    for name in _REFUSED_PARAMETERS:
        if parameters.get(name):
            raise DataError(f"{what}: the parameter {name!r} is not supported; leave it out.")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise DataError(f"the parameter {name!r} must be true or false.")
    return value


def _timeout_ms(microseconds: object) -> float | None:
    """Return Triton's parameter ``timeout`` in milliseconds; 0 and none mean the server's own."""
    if microseconds is None:
        return None
    if type(microseconds) is not int or microseconds < 0:
        raise DataError("the parameter 'timeout' must be a whole number of microseconds.")
    return microseconds / 1000 or None


def _inputs(plan: RequestPlan, items: list[Any], body: bytes, start: int) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    for item in items:
        tensor = _object(item, "an input")
        known = plan.inputs.get(name) if type(name := tensor.get("name")) is str else None
        if known is None or name in inputs:
            raise DataError(f"'inputs' must name each of {', '.join(plan.inputs)} once, and nothing else.")
        inputs[known.name], size_bytes = _input(known, tensor, body, start)
        start += size_bytes
    if len(inputs) != len(plan.inputs):
        raise DataError(f"'inputs' lacks {', '.join(sorted(plan.inputs.keys() - inputs.keys()))}.")
    if start != len(body):
        raise DataError(f"the body holds {len(body) - start} bytes more than its binary inputs.")
    if len(inputs) > 1:
        tensors.check_rows(tuple(plan.inputs.values()), inputs)
    return inputs


def _input(plan: TensorPlan, tensor: dict[str, Any], body: bytes, start: int) -> tuple[Array, int]:
    shape = tensors.check_shape(plan, tensor.get("shape"))
    dtype = tensors.check_datatype(plan, tensor.get("datatype"))
    size_bytes = _parameters(tensor, f"input {plan.name!r}").get("binary_data_size")
    if size_bytes is None:
        return tensors.from_json(plan, dtype, shape, tensor.get("data")), 0
    if type(size_bytes) is not int or "data" in tensor:
        raise DataError(f"input {plan.name!r}: send either 'data' or a whole number 'binary_data_size'.")
    return tensors.from_bytes(plan, dtype, shape, body, start, size_bytes), size_bytes


def _outputs(plan: RequestPlan, value: object, as_bytes: bool, most: int) -> tuple[tuple[str, bool], ...]:
    if value is None or value == []:
        return tuple((name, as_bytes) for name in plan.outputs)
    wanted: dict[str, bool] = {}
    for item in _list(value, "outputs", most):
        output = _object(item, "an output")
        name = output.get("name")
        if name not in plan.outputs or name in wanted:
            raise DataError(f"'outputs' must name some of {', '.join(plan.outputs)}, each once.")
        wanted[name] = _flag(_parameters(output, f"output {name!r}"), "binary_data", as_bytes)
    return tuple(wanted.items())
