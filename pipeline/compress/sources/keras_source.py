"""What a Keras file says of itself, read without Keras: its version, its layers, the types of its weights."""

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]  # it ships no types

from pipeline.compress.sources.keras_layers import BUILT_IN
from pipeline.core.archives import require_modest
from pipeline.core.errors import ModelError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

_LIBRARIES = re.compile(r"(tf_)?keras(\.|$)|builtins$|tensorflow\.(python\.)?keras\.")
_TAKES_TEXT = frozenset({"StringLookup", "TextVectorization"})
_INTEGERS = "iu"
_FILE_FUNCTION = re.compile(r"(tf\.)?(_api\.v2\.)?(compat\.v[12]\.)?(io|raw_ops|saved_model|train|summary|data)\.")
_FILE_OPERATOR = re.compile(r"(Read|Write)File|Save|Restore|Checkpoint|Summary")


def is_keras(path: Path) -> bool:
    """Tell a ``.keras`` or an ``.h5`` file by its content."""
    if not path.is_file():
        return False
    if not zipfile.is_zipfile(path):
        return bool(h5py.is_hdf5(path))
    with _readable(path), zipfile.ZipFile(path) as archive:
        return bool({METADATA, CONFIG, WEIGHTS} & set(archive.namelist()))


def keras_version(path: Path) -> object:
    """Return what the file says of the Keras that saved it; raises ModelError for a file that cannot be read."""
    if zipfile.is_zipfile(path):
        with _opened(path) as archive:
            return json.loads(archive.read(METADATA)).get("keras_version")
    if path.is_file() and h5py.is_hdf5(path):
        with _readable(path), h5py.File(path, "r") as archive:
            return archive.attrs.get("keras_version")
    raise ModelError(f"{path} is neither a .keras file nor an .h5 file that can be read; save the model again.")


def require_keras(path: Path) -> None:
    """Raise ModelError for a file that is damaged or holds what cannot be loaded, converted or quantized."""
    if zipfile.is_zipfile(path):
        with _opened(path) as archive:
            damaged = archive.testzip()
            if damaged is not None:
                raise ModelError(f"{path} is damaged ({damaged} does not match its checksum); copy or save it again.")
            if CONFIG not in archive.namelist() or WEIGHTS not in archive.namelist():
                raise ModelError(f"{path} holds no {CONFIG} or {WEIGHTS}; save the whole model with model.save().")
            config = json.loads(archive.read(CONFIG))
            with archive.open(WEIGHTS) as stream, h5py.File(stream, "r") as weights:
                _require_float(path, weights)
    else:
        with _readable(path), h5py.File(path, "r") as weights:
            text = weights.attrs.get("model_config")
            if text is None:
                raise ModelError(f"{path} holds weights without a model; save the whole model with model.save().")
            config = json.loads(text)
            _require_float(path, weights)
    with _readable(path):
        require_config(path, config, names_modules=zipfile.is_zipfile(path))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, AttributeError, TypeError, EOFError, RuntimeError, RecursionError,
            zipfile.BadZipFile, zlib.error, NotImplementedError) as error:  # fmt: skip
        brief = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} is not a Keras file that can be read ({brief}); save the model again.") from error


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    with _readable(path), zipfile.ZipFile(path) as archive:
        require_modest(archive, path.stat().st_size)
        yield archive


def _require_float(path: Path, weights: Any) -> None:
    """Quantized weights are told by their types; a counter or a seed, which is no matrix, may be an integer."""
    found: list[str] = []

    def look(name: str, item: Any) -> None:
        # A loop-free visitor: h5py stops at the first value that is not None.
        is_matrix = isinstance(item, h5py.Dataset) and len(item.shape) > 1
        if is_matrix and item.dtype.kind in _INTEGERS and item.dtype.itemsize == 1:
            found.append(name)

    weights.visititems(look)
    if found:
        raise ModelError(
            f"{path}: the weights of {len(found)} layer(s), such as {found[0]}, are already quantized "
            "(8-bit integers); give the float model."
        )


def require_config(path: Path, config: Any, names_modules: bool) -> None:
    """Raise ModelError for a model configuration with code, text, state or classes that Keras itself lacks.

    ``names_modules``: the configuration says where each class lives, as ``.keras`` files do and ``.h5`` files do not.
    """
    for node in _nodes(config):
        kind, inner = str(node["class_name"]), node.get("config")
        if kind in ("Lambda", "__lambda__"):
            raise ModelError(
                f"{path}: the layer {_name(node)} is a Lambda, that is, code inside a model file, which is never run "
                "here; replace it by a layer of Keras and save again."
            )
        if isinstance(inner, dict) and _reaches_files(kind, inner):
            raise ModelError(f"{path}: the layer {_name(node)} reads or writes files; save the model without it.")
        if kind in _TAKES_TEXT or (kind == "InputLayer" and isinstance(inner, dict) and inner.get("dtype") == "string"):
            raise ModelError(f"{path}: the layer {_name(node)} takes text; save the model without that first step.")
        if isinstance(inner, dict) and inner.get("stateful") is True:
            raise ModelError(
                f"{path}: the layer {_name(node)} ({kind}) is stateful: it remembers earlier rows, so that answers "
                "depend on their order; build it with stateful=False."
            )
        if kind == "QuantizedDTypePolicy" or kind.startswith("QuantizeWrapper") or kind == "QuantizeLayer":
            raise ModelError(f"{path}: the layers are already quantized ({kind}); give the float model.")
    for what in _foreign(config, names_modules):
        raise ModelError(
            f"{path}: {what} is not a part of Keras that such a file can name, and its code is not in it; save the "
            "model as a SavedModel (model.export), which carries the computation itself."
        )


def _reaches_files(kind: str, inner: dict[str, Any]) -> bool:
    """Tell a layer that stands for one operator of TensorFlow, where that one opens files when it is called."""
    if kind == "TFOpLambda":
        return _FILE_FUNCTION.match(str(inner.get("function"))) is not None
    if kind == "TensorFlowOpLayer":
        return _FILE_OPERATOR.search(str(inner.get("node_def"))) is not None
    return kind == "IntegerLookup" and isinstance(inner.get("vocabulary"), str)


def _foreign(config: Any, names_modules: bool) -> Iterator[str]:
    """Yield what a configuration needs that neither Keras nor the file holds, in words."""
    for node in _nodes(config):
        if node["class_name"] == "function" and node.get("module") in (None, "builtins"):
            yield f"the function {node.get('config')!r}"
        elif names_modules and "module" in node and not _LIBRARIES.match(str(node["module"])):
            yield f"the class {node['class_name']!r}"
    for node in () if names_modules else _layers(config):
        if node["class_name"] not in BUILT_IN:
            yield f"the class {node['class_name']!r}"


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a configuration that has a class, the outermost first."""
    if isinstance(value, dict):
        if isinstance(value.get("class_name"), str):
            yield value
        for item in value.values():
            yield from _nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from _nodes(item)


def _layers(config: Any) -> Iterator[dict[str, Any]]:
    """Yield the model and its layers, also those of models inside it and of wrappers."""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        return
    yield config
    inner = config.get("config")
    if isinstance(inner, dict):
        for item in (*(inner.get("layers") or ()), inner.get("layer"), inner.get("cell"), *_cells(inner)):
            yield from _layers(item)
    elif isinstance(inner, list):  # a sequential model of old
        for item in inner:
            yield from _layers(item)


def _cells(inner: dict[str, Any]) -> list[Any]:
    cells = inner.get("cells")
    return cells if isinstance(cells, list) else []


def _name(node: dict[str, Any]) -> str:
    inner = node.get("config")
    named = node.get("name") or (inner.get("name") if isinstance(inner, dict) else None)
    return repr(named or node["class_name"])
