"""What a trained model is, by its content; looks only, starts nothing heavy."""

import zipfile
from pathlib import Path

from pipeline.compress.job import Job
from pipeline.compress.sources.keras_source import is_keras, keras_version, require_keras
from pipeline.core.errors import ModelError, VariantRefused
from pipeline.core.files import disk_errors
from pipeline.core.names import Format
from pipeline.core.recipe import SourceFormat

KERAS_2, KERAS_3, SAVED_MODEL = "Keras 2", "Keras 3", "SavedModel"
_KINDS = {"2": KERAS_2, "3": KERAS_3}
_TFLITE_MAGIC = b"TFL3"
_EXPECTED = "give a .keras, .h5, .tflite or .onnx file, or a SavedModel folder"


def source_format_of(path: Path) -> SourceFormat:
    """Tell what a trained model is by its content, whatever its name.

    ``folder#signature`` names one of a SavedModel's signatures. Raises ModelError for what is none of the kinds.
    """
    place, _ = split_signature(path)
    if not place.exists():
        raise ModelError(f"{place} does not exist; give the path of your trained model.")
    if place.is_dir():
        if not (place / "saved_model.pb").is_file():
            raise ModelError(f"{place} is no SavedModel: it holds no saved_model.pb; give the model's own folder.")
        return SourceFormat.SAVEDMODEL
    with disk_errors(place), place.open("rb") as stream:
        start = stream.read(8)
    if start[4:8] == _TFLITE_MAGIC:
        return SourceFormat.TFLITE
    if is_keras(place):
        return SourceFormat.KERAS
    if _looks_like_onnx(start):
        return SourceFormat.ONNX
    damaged = "is empty" if not start else "is damaged or no model"
    raise ModelError(f"{place} {damaged}: its content is of no kind known here; {_EXPECTED}.")


def split_signature(path: Path) -> tuple[Path, str | None]:
    """Split ``folder#signature`` into both; a path that exists as it is written has no signature."""
    name, mark, signature = path.name.rpartition("#")
    return (path.with_name(name), signature) if mark and name and not path.exists() else (path, None)


def describe(path: Path) -> str:
    """Return what the model is, in a few words that a person reads; raises ModelError as :func:`source_format_of`."""
    source_format = source_format_of(path)
    place, signature = split_signature(path)
    if source_format is SourceFormat.KERAS:
        return f"{kind_of_source(path, source_format)} ({'.keras' if zipfile.is_zipfile(place) else '.h5'})"
    if source_format is SourceFormat.SAVEDMODEL:
        kind = kind_of_source(path, source_format)
        said = f"SavedModel of {KERAS_2}" if kind == KERAS_2 else SAVED_MODEL
        return f"{said}, signature {signature}" if signature else said
    if source_format is SourceFormat.TFLITE:
        return "TFLite"
    from pipeline.compress.sources.onnx_source import (  # not at the top: see require_supported
        has_external_data,
        load_onnx,
    )

    return "ONNX with external data" if has_external_data(load_onnx(place)) else "ONNX"


def require_supported(path: Path, source_format: SourceFormat) -> None:
    """Raise ModelError, one sentence, for a model that no stage could use; TensorFlow is not started for it.

    Refused: damaged files, code or classes that are not in the file, operators without an engine, text inputs, state
    between calls, weights that are already quantized (told by the weights, not the file's name).
    """
    place, signature = split_signature(path)
    # Each reader brings its own library: a training process needs none of the others.
    if source_format is SourceFormat.KERAS:
        kind_of_source(path, source_format)
        require_keras(place)
    elif source_format is SourceFormat.SAVEDMODEL:
        from pipeline.compress.sources.saved_model_source import require_saved_model

        require_saved_model(place, signature)
    elif source_format is SourceFormat.TFLITE:
        from pipeline.compress.sources.tflite_source import require_tflite

        require_tflite(place)
    else:
        from pipeline.compress.sources.onnx_source import require_onnx

        require_onnx(place)


def read_ready_made(path: Path, model_format: Format) -> bytes:
    """Return the one self-contained float model that is made of a ``.tflite`` or ``.onnx`` source.

    External data is inlined, an old opset upgraded, weights stored as float16 are widened to float32; other models
    come back byte for byte. Raises ModelError for a file that cannot be read so.
    """
    if model_format is Format.TFLITE:
        from pipeline.compress.sources.tflite_source import read_tflite

        return read_tflite(path)
    from pipeline.compress.sources.onnx_source import read_onnx

    return read_onnx(path)


def files_beside(path: Path, source_format: SourceFormat) -> tuple[Path, ...]:
    """Return the other files that belong to a model: the external data of an ONNX model."""
    if source_format is not SourceFormat.ONNX:
        return ()
    from pipeline.compress.sources.onnx_source import external_files, load_onnx

    return external_files(path, load_onnx(path))


def kind_of_source(path: Path, source_format: SourceFormat) -> str:
    """Return KERAS_2, KERAS_3 or SAVED_MODEL; raises ModelError when the file does not say.

    A SavedModel that tf_keras wrote of a model without foreign classes is KERAS_2, unless a signature is named.
    """
    place, signature = split_signature(path)
    if source_format is SourceFormat.SAVEDMODEL:
        if not (place / "saved_model.pb").is_file():
            raise ModelError(f"{place} is not a SavedModel: it holds no saved_model.pb; correct source.path.")
        from pipeline.compress.sources.saved_model_source import is_keras_2

        return KERAS_2 if signature is None and is_keras_2(place) else SAVED_MODEL
    version = keras_version(place)
    text = version.decode() if isinstance(version, bytes) else str(version)
    kind = _KINDS.get(text.partition(".")[0])
    if kind is None:
        raise ModelError(f"{place} does not say which Keras saved it (keras_version: {text}); save the model again.")
    return kind


def require_tunable(job: Job, kind: str) -> None:
    """Raise VariantRefused for a variant of a model that is no Keras model, so that nothing can fine-tune it."""
    if job.variant != "dense" and kind == SAVED_MODEL:
        raise VariantRefused(
            f"{job.variant} needs a Keras model to fine-tune, and {job.source} is a SavedModel without one; "
            "give the .keras or .h5 file, or keep only dense in the recipe's variants."
        )


def _looks_like_onnx(start: bytes) -> bool:
    """Tell the first bytes of a ModelProto: its fields are short of numbers and have wire types that protobuf knows."""
    return bool(start) and start[0] in (0x08, 0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
