"""LiteRT with all tensors kept, so that those between operators can be read."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.core.errors import ModelError
from pipeline.core.tensors import Array
from pipeline.score.noise import Inside, rows_to_keep

_FLOATS = (np.float32, np.float16)


def litert_inside(model: bytes, inputs: Mapping[str, Array]) -> dict[str, Inside]:
    """Return the outputs of every operator of the main graph; raises ModelError when the model cannot be run so."""
    try:
        interpreter = Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        places = _places(interpreter)
        fixed = next(iter(places.values()))["shape_signature"][0]
        if fixed == -1:
            _invoke(interpreter, places, {name: array[:1] for name, array in inputs.items()})
            fixed = rows_to_keep(_numbers(interpreter), len(next(iter(inputs.values()))))
        _invoke(interpreter, places, {name: array[:fixed] for name, array in inputs.items()})
        return _read(interpreter)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"its tensors cannot be read ({' '.join(str(error).split())[:200]})") from error


def _places(interpreter: Any) -> dict[str, Any]:
    if interpreter.get_signature_list():
        names = sorted(interpreter.get_signature_list())
        chosen = "serving_default" if "serving_default" in names else names[0]
        return dict(interpreter.get_signature_runner(chosen).get_input_details())
    return {detail["name"]: detail for detail in interpreter.get_input_details()}


def _invoke(interpreter: Any, places: Mapping[str, Any], rows: Mapping[str, Array]) -> None:
    for name, array in rows.items():
        interpreter.resize_tensor_input(places[name]["index"], array.shape)
    interpreter.allocate_tensors()
    interpreter.reset_all_variables()
    for name, array in rows.items():
        interpreter.set_tensor(places[name]["index"], np.ascontiguousarray(array))
    interpreter.invoke()


def _outputs(interpreter: Any) -> list[tuple[str, int]]:
    """Return (operator, tensor index) of every operator's outputs; the package has no public way to ask."""
    return [
        (op["op_name"], int(index)) for op in interpreter._get_ops_details() for index in op["outputs"] if index >= 0
    ]


def _numbers(interpreter: Any) -> int:
    details = {item["index"]: item for item in interpreter.get_tensor_details()}
    return sum(int(np.prod(details[index]["shape"])) for _, index in _outputs(interpreter) if index in details)


def _read(interpreter: Any) -> dict[str, Inside]:
    details = {item["index"]: item for item in interpreter.get_tensor_details()}
    found = {}
    for kind, index in _outputs(interpreter):
        if index in details and kind != "DELEGATE":
            stored = _held(interpreter, index)
            item = None if stored is None else _real(kind, details[index], stored)
            if item is not None:
                found[str(details[index]["name"])] = item
    return found


def _held(interpreter: Any, index: int) -> Array | None:
    """Return a tensor's values, or None where it has none: results of a loop that nobody reads."""
    try:
        return np.asarray(interpreter.get_tensor(index))
    except ValueError:
        return None


def _real(kind: str, detail: Mapping[str, Any], stored: Array) -> Inside | None:
    if detail["dtype"] in _FLOATS:
        return Inside(kind, np.array(stored, np.float32))
    scales, zeros = (detail["quantization_parameters"][key] for key in ("scales", "zero_points"))
    if len(scales) != 1 or detail["dtype"] not in (np.int8, np.int16, np.uint8):
        return None
    scale, zero, limits = float(scales[0]), int(zeros[0]), np.iinfo(detail["dtype"])
    values = (np.asarray(stored, np.float32) - zero) * np.float32(scale)
    return Inside(kind, values, (limits.min - zero) * scale, (limits.max - zero) * scale)


def litert_lookups(model: bytes, inputs: Mapping[str, Array], tables: Mapping[str, int]) -> dict[str, Array]:
    """Return the indices that the rows look up, by the name of the table's tensor.

    ``tables`` says which input of an operator is a table; the other one holds the indices. Raises ModelError when the
    model cannot be run so.
    """
    try:
        interpreter = Interpreter(
            model_content=model,
            experimental_preserve_all_tensors=True,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        places = _places(interpreter)
        rows = len(next(iter(inputs.values())))
        fixed = next(iter(places.values()))["shape_signature"][0]
        step = rows if fixed == -1 else int(fixed)
        found: dict[str, list[Array]] = {}
        for start in range(0, rows - step + 1, step):
            _invoke(interpreter, places, {name: array[start : start + step] for name, array in inputs.items()})
            for name, indices in _looked_up(interpreter, tables):
                found.setdefault(name, []).append(indices)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"its tensors cannot be read ({' '.join(str(error).split())[:200]})") from error
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _looked_up(interpreter: Any, tables: Mapping[str, int]) -> Iterator[tuple[str, Array]]:
    names = {item["index"]: str(item["name"]) for item in interpreter.get_tensor_details()}
    for op in interpreter._get_ops_details():
        place = tables.get(op["op_name"])
        if place is not None:
            held = _held(interpreter, int(op["inputs"][1 - place]))
            if held is not None:
                yield names[int(op["inputs"][place])], np.array(held).reshape(-1)
