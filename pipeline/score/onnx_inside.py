"""onnxruntime with every operator's result as an output, so that tensors between operators can be read."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from pipeline.core.errors import ModelError
from pipeline.core.tensors import Array
from pipeline.score.noise import Inside, rows_to_keep

_LIMITS = {"int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767), "uint16": (0, 65535)}
_PLUMBING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Shape")
_FAILURES = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    DecodeError,
    RuntimeError,
    ValueError,
)
_ERRORS_ONLY = 3


def onnx_inside(model: bytes, inputs: Mapping[str, Array]) -> dict[str, Inside]:
    """Return every operator's float results; a quantized one as it is after its rounding.

    Raises ModelError when the model cannot be run so.
    """
    try:
        graph = onnx.load_from_string(model)
        kinds = {name: node.op_type for node in graph.graph.node for name in node.output if name}
        stored = _as_stored(graph.graph)
        shown = {name: stored.get(name, name) for name, kind in kinds.items() if kind not in _PLUMBING}
        results = _run(graph, list(dict.fromkeys(shown.values())), inputs)
        ranges = _ranges(graph.graph)
    except _FAILURES as error:
        raise ModelError(f"its tensors cannot be read ({' '.join(str(error).split())[:200]})") from error
    return {
        name: Inside(kinds[name], results[place], *ranges.get(name, (None, None)))
        for name, place in shown.items()
        if place in results and results[place].dtype.kind == "f"
    }


def _run(graph: onnx.ModelProto, names: list[str], inputs: Mapping[str, Array]) -> dict[str, Array]:
    have = {item.name for item in graph.graph.output}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in have)
    session = ort.InferenceSession(graph.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    fixed = [item.shape[0] for item in session.get_inputs() if isinstance(item.shape[0], int)]
    first = session.run(names, {name: array[: fixed[0] if fixed else 1] for name, array in inputs.items()})
    if fixed:
        return _arrays(names, first)
    numbers = sum(array.size for array in _arrays(names, first).values())
    rows = rows_to_keep(numbers, len(next(iter(inputs.values()))))
    return _arrays(names, session.run(names, {name: array[:rows] for name, array in inputs.items()}))


def _arrays(names: Sequence[str], results: Sequence[Any]) -> dict[str, Array]:
    """Return the results that are tensors: sequences and empty optionals have no noise."""
    return {name: item for name, item in zip(names, results, strict=True) if isinstance(item, np.ndarray)}


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _ERRORS_ONLY
    # As in the engine: no weights are read from files beside the model.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    return options


def _as_stored(graph: onnx.GraphProto) -> dict[str, str]:
    """Return, for every tensor that is rounded and read back, the name of what is read back."""
    rounded = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    read = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    return {rounded[node.input[0]]: node.output[0] for node in read if node.input[0] in rounded}


def _ranges(graph: onnx.GraphProto) -> dict[str, tuple[float, float]]:
    constants = {item.name: item for item in graph.initializer}
    ranges = {}
    for node in graph.node:
        if node.op_type == "QuantizeLinear" and len(node.input) == 3 and set(node.input[1:]) <= constants.keys():
            scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            if scale.size == 1 and zero.dtype.name in _LIMITS:
                low, high = (float((limit - int(zero)) * float(scale)) for limit in _LIMITS[zero.dtype.name])
                ranges[node.input[0]] = (low, high)
    return ranges


def onnx_lookups(model: bytes, inputs: Mapping[str, Array], tables: Mapping[str, int]) -> dict[str, Array]:
    """Return the indices that the rows look up, by the name of the table as its operator reads it.

    ``tables`` says which input of an operator is a table; the next one holds the indices. Bodies of loops and branches
    are left out. Raises ModelError when the model cannot be run so.
    """
    try:
        graph = onnx.load_from_string(model)
        reads = [(node.input[tables[node.op_type]], node) for node in graph.graph.node if node.op_type in tables]
        constants = {item.name: numpy_helper.to_array(item) for item in graph.graph.initializer}
        wanted = {name: node.input[tables[node.op_type] + 1] for name, node in reads}
        given = {name: inputs[index] for name, index in wanted.items() if index in inputs}
        fixed = {name: constants[index] for name, index in wanted.items() if index in constants}
        inside = {name: index for name, index in wanted.items() if name not in given and name not in fixed}
        found = _run_all(graph, sorted(set(inside.values())), inputs)
    except _FAILURES as error:
        raise ModelError(f"its tensors cannot be read ({' '.join(str(error).split())[:200]})") from error
    computed = {name: found[index] for name, index in inside.items()}
    return {name: array.reshape(-1) for name, array in {**given, **fixed, **computed}.items()}


def _run_all(graph: onnx.ModelProto, names: list[str], inputs: Mapping[str, Array]) -> dict[str, Array]:
    if not names:
        return {}
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = ort.InferenceSession(graph.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    fixed = [item.shape[0] for item in session.get_inputs() if isinstance(item.shape[0], int)]
    rows = len(next(iter(inputs.values())))
    step = fixed[0] if fixed else rows
    parts = [
        session.run(names, {name: array[start : start + step] for name, array in inputs.items()})
        for start in range(0, rows - step + 1, step)
    ]
    return {name: np.concatenate([part[place] for part in parts]) for place, name in enumerate(names)}
