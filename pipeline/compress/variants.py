"""Makes one variant: starts the training process, or copies a source that is already tflite or onnx."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.compress.job import ROWS_CHECKED_MAX, Job, Result, export_file
from pipeline.compress.processes import OnStep, train
from pipeline.compress.rows import session_batches
from pipeline.compress.schemes.coverage import sparsity, stored_weights
from pipeline.compress.sources.source import read_ready_made, require_supported, split_signature
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import ModelError, RecipeError, VariantRefused
from pipeline.core.files import read_bytes, replacing_dir, write_atomic
from pipeline.core.layout import ARTIFACTS, tuning_dir, variant_dir
from pipeline.core.names import Format
from pipeline.core.recipe import Recipe
from pipeline.core.records import VARIANT_FILE, Export, VariantRecord, write_record
from pipeline.engines.open import open_session


def make_variant(recipe: Recipe, variant: str, on_step: OnStep, root: Path = ARTIFACTS) -> VariantRecord:
    """Make a variant of a recipe's model and write ``<root>/variants/<model>/<variant>/``.

    Raises RecipeError for a variant that the recipe does not name, ModelError for a source that cannot be read,
    DataError for bad rows, VariantRefused for a variant that cannot be made or collapsed.
    """
    if variant not in recipe.variants:
        known = ", ".join(recipe.variants)
        raise RecipeError(f"The recipe of {recipe.model} has no variant {variant!r}; it has {known}.")
    source = Path(recipe.source.path)
    if not split_signature(source)[0].exists():
        raise ModelError(f"{source} does not exist; train the model, or correct source.path of its recipe.")
    require_supported(source, recipe.source.format)
    formats = tuple(sorted({name.format for name in recipe.candidates() if name.variant == variant}))
    ready_made = recipe.source.format.ready_made
    with TemporaryDirectory(prefix="hotspare-") as scratch:
        out = Path(scratch)
        if ready_made is not None:
            result = _copy_source(recipe, variant, ready_made, formats, out)
        else:
            result = train(_job(recipe, variant, formats, out, root), on_step)
        record = _publish(variant_dir(recipe.model, variant, root), recipe.model, variant, result, out)
    shutil.rmtree(tuning_dir(recipe.model, variant, root), ignore_errors=True)  # not before: a kill would cost it all
    return record


def _copy_source(recipe: Recipe, variant: str, source_format: Format, formats: tuple[Format, ...], out: Path) -> Result:
    source = Path(recipe.source.path)
    if variant != "dense":
        raise VariantRefused(
            f"{variant} of {recipe.model} needs a Keras model to fine-tune, but {source} is {source_format}; "
            "keep only dense in the recipe's variants."
        )
    if formats != (source_format,):
        raise VariantRefused(
            f"{source} is {source_format} and is not converted to {', '.join(sorted({*formats} - {source_format}))}; "
            f"keep only schemes.{source_format} in the recipe of {recipe.model}."
        )
    original = read_bytes(source, ModelError, "correct source.path of the recipe")
    model = read_ready_made(source, source_format)
    try:
        rows = _check_answers(source_format, model, Path(recipe.data.validation))
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    write_atomic(out / export_file(source_format), model)
    export = Export(export_file(source_format), sha256_hex(model), max_abs_diff=0.0, rows_checked=rows)
    how = "copy" if model == original else "self-contained float32 form"
    return Result(f"{how} of the {source_format} source", {source_format: export})


def _check_answers(model_format: Format, model: bytes, validation: Path) -> int:
    """Run a model on validation rows; returns how many. Raises ModelError when an answer is NaN or infinite."""
    session = open_session(model_format, model)
    batch = next(session_batches(session, validation, ROWS_CHECKED_MAX))
    for name, values in session.run(batch).items():
        if not np.isfinite(np.asarray(values, np.float64)).all():
            raise ModelError(f"its output {name!r} is NaN or infinite on rows of {validation}; train the model again.")
    return len(next(iter(batch.values())))


def _job(recipe: Recipe, variant: str, formats: tuple[Format, ...], out: Path, root: Path = ARTIFACTS) -> Job:
    return Job(
        variant=variant,
        source=recipe.source.path,
        source_format=recipe.source.format,
        train=recipe.data.train,
        validation=recipe.data.validation,
        metric=recipe.metric,
        fine_tuning=recipe.variants[variant],
        formats=formats,
        seed=recipe.seed,
        out=str(out),
        state=str(tuning_dir(recipe.model, variant, root)),
    )


def _publish(target: Path, model: str, variant: str, result: Result, out: Path) -> VariantRecord:
    exports = {name: read_bytes(out / export.file) for name, export in sorted(result.exports.items())}
    zeros = max(sparsity(stored_weights(name, data)) for name, data in exports.items())
    record = VariantRecord(model, variant, result.made_by, zeros, result.exports)
    with replacing_dir(target) as folder:
        for name, data in exports.items():
            write_atomic(folder / result.exports[name].file, data)
        write_record(folder / VARIANT_FILE, record)
    return record
