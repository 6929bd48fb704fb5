"""What a trained model file is, by what it says of itself; looks only, starts nothing."""

import json
import zipfile
from pathlib import Path

import h5py  # type: ignore[import-untyped]  # it ships no types

from pipeline.compress.job import Job
from pipeline.core.errors import ModelError, VariantRefused
from pipeline.core.recipe import SourceFormat

KERAS_2, KERAS_3, SAVED_MODEL = "Keras 2", "Keras 3", "SavedModel"


def kind_of_source(path: Path, source_format: SourceFormat) -> str:
    """Return KERAS_2, KERAS_3 or SAVED_MODEL; raises ModelError when the file does not say."""
    if source_format is SourceFormat.SAVEDMODEL:
        if not (path / "saved_model.pb").is_file():
            raise ModelError(f"{path} is not a SavedModel: it holds no saved_model.pb; correct source.path.")
        return SAVED_MODEL
    if zipfile.is_zipfile(path):
        return _kind(path, _zip_version(path))
    if path.is_file() and h5py.is_hdf5(path):
        with h5py.File(path, "r") as archive:
            return _kind(path, archive.attrs.get("keras_version"))
    raise ModelError(f"{path} is neither a .keras file nor an .h5 file that can be read; save the model again.")


def require_tunable(job: Job, kind: str) -> None:
    """Raise VariantRefused for a variant that only Keras 2 models can be tuned to."""
    if job.variant != "dense" and kind != KERAS_2:
        raise VariantRefused(
            f"{job.variant} needs a Keras 2 model, and {job.source} is {kind}: tensorflow-model-optimization cannot "
            "prune or quantize it; save the model with tf_keras, or keep only dense in the recipe's variants."
        )


def _zip_version(path: Path) -> object:
    try:
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json")).get("keras_version")
    except (KeyError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a .keras file that can be read ({error}); save the model again.") from error


def _kind(path: Path, version: object) -> str:
    text = version.decode() if isinstance(version, bytes) else str(version)
    kinds = {"2": KERAS_2, "3": KERAS_3}
    if text.partition(".")[0] not in kinds:
        raise ModelError(f"{path} does not say which Keras saved it (keras_version: {text}); save the model again.")
    return kinds[text.partition(".")[0]]
