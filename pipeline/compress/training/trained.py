"""A trained model, loaded: named inputs in, named outputs out, whichever library saved it."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.compress.source import KERAS_2, SAVED_MODEL
from pipeline.core.errors import ModelError

_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Trained:
    """``answer`` maps tensors by input name to tensors by output name; ``owner`` holds the variables that it uses.

    ``keras_model`` is None for a SavedModel.
    """

    answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    inputs: tuple[Any, ...]
    keras_model: Any
    owner: Any
    made_by: str


def load_trained(path: Path, kind: str) -> Trained:
    """Load a model of a known kind; raises ModelError when it cannot be loaded."""
    try:
        if kind == SAVED_MODEL:
            return _saved_model(path)
        library = importlib.import_module("tf_keras" if kind == KERAS_2 else "keras")  # each takes seconds
        model = library.models.load_model(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        brief = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} cannot be loaded as {kind} ({brief}); save the model again.") from error
    return of_keras(model, f"{library.__name__} {library.__version__}")


def of_keras(model: Any, made_by: str) -> Trained:
    """Wrap a functional or sequential Keras model; raises ModelError for one without fixed inputs."""
    if not getattr(model, "inputs", None):
        raise ModelError(
            "The Keras model does not say what its inputs are; build it as a functional model and save it."
        )
    specs = tuple(_free_rows(tensor.name.partition(":")[0], tensor) for tensor in model.inputs)
    names = [spec.name for spec in specs]
    # A sequential model of Keras 3 keeps no names of outputs; its one output is called as in Keras 2.
    output_names = getattr(model, "output_names", None) or [model.layers[-1].name]

    def answer(tensors: Mapping[str, Any]) -> dict[str, Any]:
        values = [tensors[name] for name in names]
        outputs = model(values if len(values) > 1 else values[0], training=False)
        return dict(zip(output_names, outputs if isinstance(outputs, (list, tuple)) else [outputs], strict=True))

    # A SavedModel saves what TensorFlow can track: of a Keras 3 model that is its variables' values, not the model.
    owner = model if isinstance(model, tf.Module) else [variable.value for variable in model.variables]
    return Trained(answer, specs, model, owner, made_by)


def _saved_model(path: Path) -> Trained:
    loaded = tf.saved_model.load(str(path))
    if _SIGNATURE not in loaded.signatures:
        raise ModelError(f"{path} has no signature {_SIGNATURE}; save it with one.")
    function = loaded.signatures[_SIGNATURE]
    specs = tuple(_free_rows(name, spec) for name, spec in sorted(function.structured_input_signature[1].items()))
    return Trained(lambda tensors: function(**tensors), specs, None, loaded, f"tensorflow {tf.__version__}")


def _free_rows(name: str, tensor: Any) -> Any:
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=name)
