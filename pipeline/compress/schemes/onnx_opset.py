"""The version of the operator set of an ``.onnx`` model, raised to where int4 tensors exist."""

import numpy as np
import onnx
from onnx import version_converter

from pipeline.compress.schemes.onnx_graph import name_nodes
from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.engines.base import Session
from pipeline.engines.open import open_session

INT4_OPSET = 21
_TOLERANCE = 1e-5


def with_int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with an operator set that has int4; unchanged where it cannot be converted faithfully."""
    if has_int4(model) or has_inner_graphs(model):
        return model
    try:
        raised = version_converter.convert_version(model, INT4_OPSET)
        name_nodes(raised)
        same = _answers_alike(model, raised)
    except (RuntimeError, ValueError, ModelError):
        return model
    return raised if same else model


def has_int4(model: onnx.ModelProto) -> bool:
    """Tell whether the model's operator set has int4 tensors."""
    return any(item.domain in ("", "ai.onnx") and item.version >= INT4_OPSET for item in model.opset_import)


def has_inner_graphs(model: onnx.ModelProto) -> bool:
    """Tell whether nodes hold graphs of their own (Loop, If, Scan)."""
    return any(attribute.type == onnx.AttributeProto.GRAPH for node in model.graph.node for attribute in node.attribute)


def _answers_alike(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    first, second = (open_session(Format.ONNX, model.SerializeToString()) for model in (before, after))
    if (first.inputs, first.outputs) != (second.inputs, second.outputs):
        return False
    rows = _rows(first)
    wanted, found = first.run(rows), second.run(rows)
    return all(np.allclose(found[name], values, atol=_TOLERANCE, equal_nan=True) for name, values in wanted.items())


def _rows(session: Session) -> dict[str, Array]:
    """Make two seeded rows: small integers are ids that every table has."""
    rng = np.random.default_rng(0)
    shapes = {spec.name: [2 if axis == -1 else axis for axis in spec.shape] for spec in session.inputs}
    return {
        spec.name: (
            rng.normal(size=shapes[spec.name])
            if spec.dtype.startswith("float")
            else rng.integers(0, 2, shapes[spec.name])
        ).astype(spec.dtype)
        for spec in session.inputs
    }
