"""Makes one variant: starts the training process, or copies a source that is already tflite or onnx."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.compress.coverage import sparsity, stored_weights
from pipeline.compress.job import RESULT_FILE, ROWS_CHECKED_MAX, Failure, Job, Result, Step, export_file
from pipeline.compress.rows import session_batches
from pipeline.core.canonical import readable_json, sha256_hex
from pipeline.core.errors import (
    DataError,
    FileAccess,
    HotspareError,
    InternalError,
    MissingExtra,
    ModelError,
    OutOfSpace,
    RecipeError,
    SurroundingsError,
    VariantRefused,
)
from pipeline.core.files import disk_errors, read_bytes, read_json, replacing_dir, write_atomic
from pipeline.core.layout import ARTIFACTS, variant_dir
from pipeline.core.names import Format
from pipeline.core.recipe import Recipe
from pipeline.core.records import VARIANT_FILE, Export, VariantRecord, write_record
from pipeline.core.schema import SchemaProblems, plain, read
from pipeline.engines.open import open_session

OnStep = Callable[[Step], None]
_ERRORS = (DataError, FileAccess, MissingExtra, ModelError, OutOfSpace, VariantRefused)


def make_variant(recipe: Recipe, variant: str, on_step: OnStep, root: Path = ARTIFACTS) -> VariantRecord:
    """Make a variant of a recipe's model and write ``<root>/variants/<model>/<variant>/``.

    Raises RecipeError for a variant that the recipe does not name, ModelError for a source that cannot be read,
    DataError for bad rows, VariantRefused for a variant that cannot be made or collapsed.
    """
    if variant not in recipe.variants:
        known = ", ".join(recipe.variants)
        raise RecipeError(f"The recipe of {recipe.model} has no variant {variant!r}; it has {known}.")
    source = Path(recipe.source.path)
    if not source.exists():
        raise ModelError(f"{source} does not exist; train the model, or correct source.path of its recipe.")
    formats = tuple(sorted({name.format for name in recipe.candidates() if name.variant == variant}))
    ready_made = recipe.source.format.ready_made
    with TemporaryDirectory(prefix="hotspare-") as scratch:
        out = Path(scratch)
        if ready_made is not None:
            result = _copy_source(recipe, variant, ready_made, formats, out)
        else:
            result = _train(_job(recipe, variant, formats, out), on_step)
        return _publish(variant_dir(recipe.model, variant, root), recipe.model, variant, result, out)


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
    model = read_bytes(source, ModelError, "correct source.path of the recipe")
    try:
        rows = _check_answers(source_format, model, Path(recipe.data.validation))
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    write_atomic(out / export_file(source_format), model)
    export = Export(export_file(source_format), sha256_hex(model), max_abs_diff=0.0, rows_checked=rows)
    return Result(f"copy of the {source_format} source", {source_format: export})


def _check_answers(model_format: Format, model: bytes, validation: Path) -> int:
    """Run a model on validation rows; returns how many. Raises ModelError when an answer is NaN or infinite."""
    session = open_session(model_format, model)
    batch = next(session_batches(session, validation, ROWS_CHECKED_MAX))
    for name, values in session.run(batch).items():
        if not np.isfinite(np.asarray(values, np.float64)).all():
            raise ModelError(f"its output {name!r} is NaN or infinite on rows of {validation}; train the model again.")
    return len(next(iter(batch.values())))


def _job(recipe: Recipe, variant: str, formats: tuple[Format, ...], out: Path) -> Job:
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
    )


def _train(job: Job, on_step: OnStep) -> Result:
    """Run a job in its own process: TensorFlow takes 10 s to import, and pruning switches Keras for the process."""
    job_file, log_file = Path(job.out, "job.json"), Path(job.out, "training.log")
    write_atomic(job_file, readable_json(plain(job)))
    command = [sys.executable, "-m", "pipeline.compress.training", str(job_file)]
    failure: Failure | None = None
    with (
        disk_errors(log_file),
        log_file.open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=_environment(), text=True) as process,
    ):
        try:
            assert process.stdout is not None  # noqa: S101 - asked for above; tells the type checker
            for line in process.stdout:
                event = _event(line)
                if isinstance(event, Step):
                    on_step(event)
                failure = event if isinstance(event, Failure) else failure
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0 or failure is not None:
        raise _error(job, failure, process.returncode, log_file)
    return read(Result, read_json(Path(job.out, RESULT_FILE), InternalError, "report this"))


def _environment() -> dict[str, str]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    same_everywhere = {"TF_USE_LEGACY_KERAS": "1", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    return {**os.environ, **quiet, **same_everywhere, "KERAS_BACKEND": "tensorflow", "PYTHONUNBUFFERED": "1"}


def _event(line: str) -> Step | Failure | None:
    try:
        value = json.loads(line)
        is_failure = isinstance(value, dict) and "exit_code" in value
        return read(Failure, value) if is_failure else read(Step, value)
    except (ValueError, SchemaProblems):
        return None  # a library's own words


def _error(job: Job, failure: Failure | None, exit_code: int, log_file: Path) -> HotspareError:
    if failure is not None:
        kinds = {kind.exit_code: kind for kind in _ERRORS}
        return kinds.get(failure.exit_code, InternalError)(failure.message)
    if exit_code < 0:
        return SurroundingsError(
            f"The process that made {job.variant} was ended by signal {-exit_code}, perhaps for want of memory; "
            "nothing was written, run the command again."
        )
    lines = log_file.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"]
    return InternalError(f"The process that made {job.variant} failed with code {exit_code}: {lines[-1]}")


def _publish(target: Path, model: str, variant: str, result: Result, out: Path) -> VariantRecord:
    exports = {name: read_bytes(out / export.file) for name, export in sorted(result.exports.items())}
    zeros = max(sparsity(stored_weights(name, data)) for name, data in exports.items())
    record = VariantRecord(model, variant, result.made_by, zeros, result.exports)
    with replacing_dir(target) as folder:
        for name, data in exports.items():
            write_atomic(folder / result.exports[name].file, data)
        write_record(folder / VARIANT_FILE, record)
    return record
