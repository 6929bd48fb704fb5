"""Write the body of an inference answer: JSON, raw bytes where the request asked for them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from pipeline.core.tensors import Array
from pipeline.runtime.http.request import InferRequest
from pipeline.runtime.http.tensors import DATATYPE_OF
from pipeline.runtime.service import Answer

_LITTLE = {"<", "|"} | ({"="} if np.little_endian else set())


@dataclass(frozen=True)
class Body:
    """An encoded answer; ``head_bytes`` is the length of its JSON part where raw tensors follow."""

    content: bytes
    head_bytes: int | None


def write_answer(model: str, version: str, request: InferRequest, answer: Answer) -> Body:
    """Encode the outputs that a request wants, in its order."""
    raw: list[bytes] = []
    outputs = [_output(name, answer.outputs[name], as_bytes, raw) for name, as_bytes in request.outputs]
    head: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request.id is not None:
        head["id"] = request.id
    content = orjson.dumps(head, option=orjson.OPT_SERIALIZE_NUMPY)
    if not raw:
        return Body(content, None)
    return Body(b"".join([content, *raw]), len(content))


def _output(name: str, array: Array, as_bytes: bool, raw: list[bytes]) -> dict[str, Any]:
    output: dict[str, Any] = {"name": name, "datatype": DATATYPE_OF[array.dtype], "shape": array.shape}
    if as_bytes:
        raw.append(_little(array).tobytes())
        output["parameters"] = {"binary_data_size": array.nbytes}
    else:
        output["data"] = np.ascontiguousarray(array).reshape(-1)
    return output


def _little(array: Array) -> Array:
    return array if array.dtype.byteorder in _LITTLE else array.astype(array.dtype.newbyteorder("<"))
