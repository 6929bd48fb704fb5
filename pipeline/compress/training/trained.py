"""A trained model, loaded: named inputs in, named outputs out, whichever library saved it."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipeline.compress.sources.saved_model_source import choose_signature
from pipeline.compress.sources.source import KERAS_2, SAVED_MODEL, split_signature
from pipeline.core.errors import DataError, ModelError

_LOADING_FAILURES = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, IndexError, RuntimeError)


@dataclass(frozen=True)
class Trained:
    """``answer`` maps tensors by input name to tensors by output name; ``owner`` holds the variables that it uses.

    The first axis of ``inputs`` is None, or the number of rows that a SavedModel was saved for: ``answer`` takes any
    number all the same. ``keras_model`` is None for a SavedModel that is not Keras's own.
    """

    answer: Callable[[Mapping[str, Any]], dict[str, Any]]
    inputs: tuple[Any, ...]
    keras_model: Any
    owner: Any
    made_by: str

    @property
    def fixed_rows(self) -> int | None:
        """Return the only number of rows that the computation itself takes, or None."""
        return next((int(spec.shape[0]) for spec in self.inputs if spec.shape[0] is not None), None)


def load_trained(path: Path, kind: str) -> Trained:
    """Load a model of a known kind; raises ModelError when it cannot be loaded.

    ``folder#signature`` picks one of a SavedModel's signatures; else it is serving_default, or the only one.
    """
    try:
        if kind == SAVED_MODEL:
            return _saved_model(path)
        library = importlib.import_module("tf_keras" if kind == KERAS_2 else "keras")  # each takes seconds
        model = _keras_model(library, path)
    except _LOADING_FAILURES as error:
        brief = " ".join(str(error).split())[:200]
        raise ModelError(f"{path} cannot be loaded as {kind} ({brief}); save the model again.") from error
    return of_keras(model, f"{library.__name__} {library.__version__}")


def _keras_model(library: Any, path: Path) -> Any:
    try:
        return library.models.load_model(path)
    except _LOADING_FAILURES:
        # A loss or metric of the author's own is no part of the answers: fine-tuning then takes the recipe's.
        return library.models.load_model(path, compile=False)


def of_keras(model: Any, made_by: str) -> Trained:
    """Wrap a functional or sequential Keras model; raises ModelError for one without fixed inputs."""
    if not getattr(model, "inputs", None):
        raise ModelError(
            "The Keras model does not say what its inputs are; build it as a functional model and save it."
        )
    # A saved batch size is no limit: Keras's layers answer any number of rows.
    specs = tuple(
        tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=tensor.name.partition(":")[0])
        for tensor in model.inputs
    )
    names = [spec.name for spec in specs]
    # A sequential model of Keras 3 keeps no names of outputs; its one output is called as in Keras 2.
    output_names = list(_unique(getattr(model, "output_names", None) or [model.layers[-1].name]))

    def answer(tensors: Mapping[str, Any]) -> dict[str, Any]:
        values = [tensors[name] for name in names]
        return _named(model(values if len(values) > 1 else values[0], training=False), output_names)

    # The variables alone, not the model: saving that would trace every layer again, for minutes with recurrent ones.
    owner = [item if isinstance(item, tf.Variable) else item.value for item in model.variables]
    return Trained(_checked(answer, specs), specs, model, owner, made_by)


def _unique(names: Sequence[str]) -> Iterator[str]:
    """Yield names, numbering the ones that a layer with several outputs repeats: ``lstm``, ``lstm_1``, ``lstm_2``."""
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        yield name if seen[name] == 0 else f"{name}_{seen[name]}"


def _named(outputs: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(outputs, Mapping):
        return {str(name): values for name, values in outputs.items()}
    return dict(zip(names, tf.nest.flatten(outputs), strict=True))


def _saved_model(path: Path) -> Trained:
    folder, wanted = split_signature(path)
    loaded = tf.saved_model.load(str(folder))
    name = choose_signature(str(folder), list(loaded.signatures), wanted)
    function = loaded.signatures[name]
    declared = sorted(function.structured_input_signature[1].items())
    unknown = [key for key, spec in declared if spec.shape.rank in (None, 0)]
    if unknown:
        raise ModelError(f"{folder}: the shape of {unknown[0]!r} is not known in {name}; save it with shapes.")
    rows = next((spec.shape[0] for _, spec in declared if spec.shape[0] is not None), None)
    specs = tuple(tf.TensorSpec([rows, *spec.shape[1:]], spec.dtype, name=key) for key, spec in declared)

    def call(tensors: Mapping[str, Any]) -> dict[str, Any]:
        return dict(function(**tensors))

    answer = call if rows is None else _in_steps(call, int(rows))
    checked = _checked(answer, [tf.TensorSpec([None, *spec.shape[1:]], spec.dtype, name=spec.name) for spec in specs])
    return Trained(checked, specs, None, loaded, f"tensorflow {tf.__version__}, signature {name}")


def _checked(
    answer: Callable[[Mapping[str, Any]], dict[str, Any]], specs: Sequence[Any]
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Let rows that the model cannot take be a DataError: of another shape, or ids beyond a table."""

    def checked(tensors: Mapping[str, Any]) -> dict[str, Any]:
        for spec in specs:
            shape = tensors[spec.name].shape
            if not spec.shape.is_compatible_with(shape):
                wanted = ", ".join("n" if axis is None else str(axis) for axis in spec.shape)
                raise DataError(f"The input {spec.name!r} has shape {tuple(shape)} where the model takes ({wanted}).")
        try:
            return answer(tensors)
        except tf.errors.InvalidArgumentError as error:
            brief = " ".join(str(error.message).split())[:200]
            raise DataError(f"The model cannot answer rows of the data ({brief}); correct them.") from error

    return checked


def _in_steps(
    call: Callable[[Mapping[str, Any]], dict[str, Any]], step: int
) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Let a computation for ``step`` rows answer any number, as a session does with its export."""

    def answer(tensors: Mapping[str, Any]) -> dict[str, Any]:
        rows = next(iter(tensors.values())).shape[0]
        if rows == step:  # also while the computation itself is exported
            return call(tensors)
        parts = [
            call({name: _padded(values[start : start + step], step) for name, values in tensors.items()})
            for start in range(0, rows, step)
        ]
        return {name: tf.concat([part[name] for part in parts], 0)[:rows] for name in parts[0]}

    return answer


def _padded(values: Any, rows: int) -> Any:
    missing = rows - values.shape[0]
    return values if missing == 0 else tf.concat([values, tf.repeat(values[-1:], missing, axis=0)], 0)
