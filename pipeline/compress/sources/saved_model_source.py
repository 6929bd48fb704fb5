"""A SavedModel as it was saved, read without TensorFlow: its signatures, its operators, the types of its variables."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from pipeline.compress.sources.keras_source import require_config
from pipeline.compress.sources.saved_model_operators import called_functions, foreign_operators
from pipeline.core.errors import ModelError
from pipeline.core.files import read_bytes

SERVING = "serving_default"

_TEXT, _INT8, _UINT8 = 7, 6, 4  # tensorflow/core/framework/types.proto
_KERAS_MODELS = ("_tf_keras_network", "_tf_keras_sequential")
_KERAS_METRIC = b"_tf_keras_metric"
_PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})
_WRITING_OPS = frozenset({"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "Assign", "AssignAdd"})

# The few fields that are read here, by message: name, number, type ("*": repeated; a message's name, str or int).
# TensorFlow's own classes for them lie in its package, whose import takes 10 s. A map is a repeated key and value.
_FIELDS: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "SavedModel": {"meta_graphs": (2, "*MetaGraph")},
    "MetaGraph": {
        "info": (1, "Info"), "graph": (2, "Graph"), "signatures": (5, "*NamedSignature"), "objects": (7, "Objects"),
    },
    "Info": {"tags": (4, "*str")},
    "NamedSignature": {"key": (1, "str"), "value": (2, "Signature")},
    "Signature": {"inputs": (1, "*NamedTensor"), "outputs": (2, "*NamedTensor")},
    "NamedTensor": {"key": (1, "str"), "value": (2, "Tensor")},
    "Tensor": {"name": (1, "str"), "dtype": (2, "int")},
    "Graph": {"nodes": (1, "*Node"), "library": (2, "Library")},
    "Library": {
        "functions": (1, "*Function"), "gradients": (2, "*Gradient"), "registered_gradients": (3, "*NamedGradient"),
    },
    "Function": {"signature": (1, "FunctionName"), "nodes": (3, "*Node"), "attributes": (5, "*Attribute")},
    "Gradient": {"name": (2, "str")},
    "NamedGradient": {"name": (1, "str")},
    "FunctionName": {"name": (1, "str")},
    "Node": {"name": (1, "str"), "op": (2, "str"), "inputs": (3, "*str"), "attributes": (5, "*Attribute")},
    "Attribute": {"key": (1, "str"), "value": (2, "Value")},
    "Value": {"items": (1, "Values"), "function": (10, "FunctionName")},
    "Values": {"functions": (9, "*FunctionName")},
    "Objects": {"nodes": (1, "*Object")},
    "Object": {
        "function": (6, "ObjectFunction"), "variable": (7, "Variable"), "bare_function": (8, "FunctionName"),
    },
    "ObjectFunction": {"names": (1, "*str")},
    "Variable": {"dtype": (1, "int"), "shape": (2, "Shape"), "name": (6, "str")},
    "Shape": {"axes": (2, "*Axis")},
    "Axis": {"size": (1, "int")},
    "KerasMetadata": {"nodes": (1, "*KerasNode")},
    "KerasNode": {"path": (3, "str"), "identifier": (4, "str"), "metadata": (5, "str")},
}  # fmt: skip


def _message(name: str) -> Any:
    """Return the class that reads one of the messages above; what it does not name is passed over."""
    file = descriptor_pb2.FileDescriptorProto(name="hotspare_saved_model.proto", package="hotspare", syntax="proto3")
    scalars = {
        "str": descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
        "int": descriptor_pb2.FieldDescriptorProto.TYPE_INT64,
    }
    for message, fields in _FIELDS.items():
        entry = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            item = kind.removeprefix("*")
            entry.field.add(
                name=field,
                number=number,
                label=3 if kind.startswith("*") else 1,
                type=scalars.get(item, descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE),
                type_name=None if item in scalars else f".hotspare.{item}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"hotspare.{name}"))


def _read(name: str, path: Path) -> Any:
    message = _message(name)()
    try:
        message.ParseFromString(read_bytes(path, ModelError, "give the model's own folder"))
    except DecodeError as error:
        raise ModelError(f"{path} is damaged and cannot be read; copy or save the model again.") from error
    return message


def _serving_graph(folder: Path) -> Any:
    graphs = list(_read("SavedModel", folder / "saved_model.pb").meta_graphs)
    if not any(b"serve" in graph.info.tags for graph in graphs):
        raise ModelError(f"{folder} is no SavedModel for serving (it lacks the tag 'serve'); save the model again.")
    if len(graphs) != 1 or not graphs[0].HasField("objects"):
        raise ModelError(
            f"{folder} is a SavedModel of TensorFlow 1; load it with tf.saved_model.load and save its signature with "
            "tf.saved_model.save."
        )
    return graphs[0]


def choose_signature(place: str, names: list[str], wanted: str | None) -> str:
    """Pick the named signature, or serving_default, or the only one; raises ModelError that lists what there is."""
    known = sorted(name for name in names if not name.startswith("__"))
    listing = ", ".join(known) or "none"
    if wanted is not None:
        if wanted not in known:
            raise ModelError(f"{place} has no signature {wanted!r}; it has {listing}.")
        return wanted
    if SERVING in known:
        return SERVING
    if len(known) == 1:
        return known[0]
    advice = f"name one as {place}#{known[0]}" if known else "save it with one"
    raise ModelError(f"{place} has the signatures {listing} and none is {SERVING}; {advice}.")


def require_saved_model(folder: Path, wanted: str | None) -> None:
    """Raise ModelError for a SavedModel without a usable signature, or with what cannot be converted or quantized."""
    graph = _serving_graph(folder)
    signatures = {item.key.decode("utf-8", "replace"): item.value for item in graph.signatures}
    name = choose_signature(str(folder), list(signatures), wanted)
    for tensor in (*signatures[name].inputs, *signatures[name].outputs):
        if tensor.value.dtype == _TEXT:
            what = tensor.key.decode("utf-8", "replace")
            raise ModelError(f"{folder}: {what!r} of signature {name} is text; save the model without that step.")
    if not signatures[name].inputs:
        raise ModelError(f"{folder}: the signature {name} takes no inputs; name another one as {folder}#signature.")
    if not (folder / "variables" / "variables.index").is_file() and any(_variables(graph)):
        raise ModelError(f"{folder} is not whole: it lacks variables/variables.index; copy the whole folder.")
    _require_float(folder, graph)
    _require_computing(folder, graph)
    if _reached_operators(graph, signatures[name]) & _WRITING_OPS:
        raise ModelError(
            f"{folder} is stateful: its signature {name} writes variables, so that answers depend on the order of "
            "rows; save a model without state."
        )


def _variables(graph: Any) -> Iterator[Any]:
    return (node.variable for node in graph.objects.nodes if node.HasField("variable"))


def _require_float(folder: Path, graph: Any) -> None:
    stored = [item for item in _variables(graph) if item.dtype in (_INT8, _UINT8) and len(item.shape.axes) > 1]
    if stored:
        raise ModelError(
            f"{folder} is already quantized: {len(stored)} of its weights are 8-bit integers; give the float model."
        )


def _require_computing(folder: Path, graph: Any) -> None:
    foreign = sorted(foreign_operators(graph))
    if _PYTHON_OPS.intersection(foreign):
        raise ModelError(f"{folder} calls Python code that is not in the file (py_function); save it without.")
    if foreign:
        listing = f"{', '.join(foreign[:3])}{' and others' if len(foreign) > 3 else ''}"
        raise ModelError(
            f"{folder} holds operators that may do more than compute, such as open files ({listing}), and parts of a "
            "SavedModel run when it is loaded; save the model without them."
        )


def _reached_operators(graph: Any, signature: Any) -> set[str]:
    """Return the operators that the signature's outputs depend on: training and saving have others in the same file."""
    nodes = {node.name: node for node in graph.graph.nodes}
    functions = {item.signature.name: item for item in graph.graph.library.functions}
    waiting = [nodes[name] for item in signature.outputs if (name := item.value.name.partition(b":")[0]) in nodes]
    called: set[bytes] = set()
    seen, found = {node.name for node in waiting}, set()
    while waiting:
        node = waiting.pop()
        found.add(node.op.decode("utf-8", "replace"))
        for text in node.inputs:
            name = text.removeprefix(b"^").partition(b":")[0]
            if name in nodes and name not in seen:
                seen.add(name)
                waiting.append(nodes[name])
        for name in {*called_functions(node), node.op} - called:
            called.add(name)
            waiting += functions[name].nodes if name in functions else []
    return found


def is_keras_2(folder: Path) -> bool:
    """Tell whether tf_keras can load the folder as a functional model of its own layers alone."""
    if not (folder / "keras_metadata.pb").is_file():
        return False
    nodes = list(_read("KerasMetadata", folder / "keras_metadata.pb").nodes)
    root = next((node for node in nodes if node.path == b"root"), None)
    if root is None or root.identifier.decode("utf-8", "replace") not in _KERAS_MODELS:
        return False
    try:
        # Keras makes each layer of its own metadata, whatever the model's says of it: a Lambda there is code.
        for node in nodes:
            config = json.loads(node.metadata)
            if node is root or node.identifier != _KERAS_METRIC:
                inner = {"class_name": config["class_name"], "config": config["config"]}
                require_config(folder, inner, names_modules=False)
    except (ValueError, KeyError, TypeError, ModelError):  # the computation itself still works as a plain SavedModel
        return False
    return True
