"""A computation with its variables and constants inside, so that converters see one graph without outside tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

_SHAPED = frozenset({"TensorListReserve", "TensorListFromTensor", "TensorListGetItem", "TensorListStack"})


def frozen(serve: Any, specs: Sequence[Any], rows: int | None) -> Any:
    """Return a tf.function of the same signature whose graph holds its variables and captured tensors as constants.

    With ``rows``, lists that were traced for any number of rows (recurrent layers inside a SavedModel) are made for
    that number: their constant shapes say -1, which has no kernel in LiteRT. Raises ValueError where it cannot be.
    """
    traced = serve.get_concrete_function()
    graph = convert_variables_to_constants_v2(traced, lower_control_flow=False, aggressive_inlining=True)
    definition = graph.graph.as_graph_def()
    if rows is not None:
        for nodes in _bodies(definition):
            _fix_rows(nodes, rows)
        _rename_functions(definition, f"_for_{rows}")
    # What a layer holds as a plain tensor, such as Normalization's mean, stays an input of the frozen graph.
    captured = {internal.name: external for external, internal in traced.graph.captures}
    given = [tensor.name for tensor in graph.inputs if tensor.name not in captured]
    held = {tensor.name: captured[tensor.name].numpy() for tensor in graph.inputs if tensor.name in captured}
    outputs = _output_names(traced, graph)

    def answer(*tensors: Any) -> dict[str, Any]:
        constants = {name: tf.constant(value) for name, value in held.items()}
        fed = {**dict(zip(given, tensors, strict=True)), **constants}
        found = tf.graph_util.import_graph_def(definition, fed, list(outputs.values()), name="")
        return dict(zip(outputs, found, strict=True))

    return tf.function(answer, input_signature=list(specs), autograph=False)


def _output_names(traced: Any, graph: Any) -> dict[str, str]:
    """Map each output's own name to its tensor in the frozen graph, which keeps their order."""
    flat = tf.nest.flatten(traced.structured_outputs)  # a mapping is flattened in the order of its sorted keys
    names = sorted(traced.structured_outputs)
    if len(flat) != len(graph.outputs):
        raise ValueError("the frozen graph has another number of outputs")
    return dict(zip(names, (tensor.name for tensor in graph.outputs), strict=True))


def _bodies(definition: Any) -> Iterator[Any]:
    yield definition.node
    for function in definition.library.function:
        yield function.node_def


def _rename_functions(definition: Any, suffix: str) -> None:
    """Give changed functions names of their own: TensorFlow keeps one definition a name for the whole process."""
    renamed = {function.signature.name: function.signature.name + suffix for function in definition.library.function}
    for function in definition.library.function:
        function.signature.name = renamed[function.signature.name]
    for nodes in _bodies(definition):
        for node in nodes:
            node.op = renamed.get(node.op, node.op)
            for value in node.attr.values():
                for called in [value.func] if value.HasField("func") else value.list.func:
                    called.name = renamed.get(called.name, called.name)


def _fix_rows(nodes: Any, rows: int) -> None:
    by_name: Mapping[str, Any] = {node.name: node for node in nodes}
    for node in nodes:
        node.attr.pop("_output_shapes", None)
        for name in node.input if node.op in _SHAPED else ():
            constant = by_name.get(name.partition(":")[0])
            if constant is None or constant.op != "Const":
                continue
            shape = tf.make_ndarray(constant.attr["value"].tensor)
            if shape.ndim == 1 and np.count_nonzero(shape == -1) == 1:
                shape = np.where(shape == -1, rows, shape).astype(shape.dtype)
                constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(shape))
