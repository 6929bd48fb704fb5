"""``hotspare init``: a project around your own trained model."""

import argparse
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

from pipeline.compress.sources.source import (
    files_beside,
    kind_of_source,
    read_ready_made,
    require_supported,
    source_format_of,
    split_signature,
)
from pipeline.core.environment import for_children
from pipeline.core.errors import DataError, FileAccess, MissingExtra, ModelError, RecipeError, UsageError
from pipeline.core.files import disk_errors, write_atomic
from pipeline.core.names import MODEL_NAME, Format
from pipeline.core.recipe import Metric, SourceFormat, parse_recipe
from pipeline.core.schema import Rule, SchemaProblems, read
from pipeline.core.tensors import cast_tensors, map_npz
from pipeline.data.sources import parse_columns, write_splits
from pipeline.data.splits import BESIDE_INPUTS, Split, open_split
from pipeline.engines.base import count_rows
from pipeline.engines.open import open_session
from pipeline.score.judgeable import require_telling_labels

EXAMPLE = "hotspare init fraud-project --model fraud --source fraud.keras --data rows.npz --metric auc"

_SCAFFOLD = Path(__file__).parent / "scaffold"
_DENSE = "  dense: {}"
_TUNED = "  dense: {}\n  p50s: {epochs: 2, learning_rate: 0.0005, batch_size: 256, distill_ratio: 0.5}"
_SCHEMES = {
    SourceFormat.ONNX: "  onnx: [f32, w8a8]",
}
_TFLITE_SCHEMES = "  tflite: [f32, f16, w8, w8d, w8a8]"


@dataclass(frozen=True)
class _Name:
    model: Annotated[str, Rule(pattern=MODEL_NAME)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")
    parser.add_argument("--model", required=True, help="the model's name, e.g. fraud")
    parser.add_argument(
        "--source", required=True, type=Path, help="trained model: .keras .h5 .tflite .onnx or SavedModel"
    )
    parser.add_argument(
        "--data",
        required=True,
        help="npz (y, and x or the inputs by name), parquet, csv or module:function; split in four",
    )
    parser.add_argument("--columns", metavar="MAP", help="of a table: 'x=age,income;y=default'")
    parser.add_argument("--metric", default="accuracy", choices=[item.value for item in Metric])
    parser.add_argument(
        "--max-loss", type=float, default=0.01, help="loss of the metric that you accept (default 0.01)"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Write the project, all of it or nothing; what no stage could use is refused here."""
    source_format = _checked_format(args)
    values = _values(args, source_format)
    recipe = Template((_SCAFFOLD / "recipe.yaml").read_text()).substitute(values)
    _check_recipe(recipe)
    columns = parse_columns(args.columns) if args.columns else None
    with _all_or_nothing(args.folder):
        data = args.folder / "data" / args.model
        write_splits(args.data, columns, data, args.seed)
        _check_data(args, source_format, data / "train.npz")
        _check_labels(args, data / "validation.npz")
        _copy_source(args.source, source_format, args.folder / "models" / args.model)
        _write_scaffold(args.folder, args.model, recipe)
        _init_repositories(args.folder)
    print(
        f"{args.folder} is ready. Next:\n"
        f"  cd {shlex.quote(str(args.folder))}\n"
        "  hotspare keys new artifacts/keys --trust artifacts/trust.yaml\n"
        "  dvc repro\n"
        f"What to change first: recipes/models/{args.model}.yaml (budgets, variants, what the model card says)."
    )
    return 0


def _checked_format(args: argparse.Namespace) -> SourceFormat:
    try:
        read(_Name, {"model": args.model})
    except SchemaProblems as error:
        raise UsageError(f"--{error}; use a name such as fraud or churn-2.") from error
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise UsageError(f"{args.folder} is not empty; name a new folder, so that nothing of yours is overwritten.")
    source_format = source_format_of(args.source)
    if args.folder.resolve().is_relative_to(split_signature(args.source)[0].resolve()):
        raise UsageError(f"{args.folder} lies inside {args.source}, which would be copied into itself; name another.")
    if shutil.which("git") is None:
        raise MissingExtra("git is not installed, and dvc keeps its record in a git repository; install git.")
    require_supported(args.source, source_format)
    return source_format


def _check_recipe(recipe: str) -> None:
    try:
        parse_recipe(recipe, "The recipe that these arguments make")
    except RecipeError as error:
        raise UsageError(str(error)) from error


def _check_data(args: argparse.Namespace, source_format: SourceFormat, rows: Path) -> None:
    """Raise DataError, or ModelError, for rows that the stages would refuse; ``rows`` is one of the splits."""
    ready_made = source_format.ready_made
    try:
        split = _fitting(args.source, ready_made, rows) if ready_made else open_split(rows, _likely_inputs(rows))
    except DataError as error:
        raise DataError(str(error).replace(str(rows), args.data)) from error
    metric = Metric(args.metric)
    if split.labels is None and metric is not Metric.FIDELITY:
        raise DataError(f"{args.data} has no labels, and {metric} needs them; add the key 'y', one number a row.")
    if split.labels is not None and split.labels.ndim > 1 and metric not in (Metric.RMSE, Metric.FIDELITY):
        shape = ", ".join(map(str, ("n", *split.labels.shape[1:])))
        raise DataError(f"{args.data}: y has shape ({shape}), and {metric} needs one number a row; save it as (n,).")
    if metric.is_ranking and split.groups is None:
        raise DataError(f"{args.data} has no lists, and {metric} needs them; add the key 'group', one id a row.")


def _check_labels(args: argparse.Namespace, rows: Path) -> None:
    """Raise DataError for labels by which no model could be judged: told here, and not after minutes of fine-tuning."""
    try:
        require_telling_labels(Metric(args.metric), open_split(rows, _likely_inputs(rows)))
    except DataError as error:
        raise DataError(f"{args.data}, the {rows.stem} rows: {error}") from error


def _fitting(source: Path, model_format: Format, rows: Path) -> Split:
    try:
        session = open_session(model_format, read_ready_made(source, model_format))
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    split = open_split(rows, sorted(dtypes))
    inputs = cast_tensors(split.inputs, dtypes, str(rows))
    try:
        count_rows(session.inputs, inputs)
    except DataError as error:
        raise DataError(f"{rows}: {error}") from error
    return split


def _likely_inputs(data: Path) -> list[str]:
    """Return every array of numbers beside labels, lists and weights: only TensorFlow could say what Keras takes."""
    tensors = map_npz(data, DataError)
    return sorted(name for name in tensors.keys() - BESIDE_INPUTS if tensors[name].dtype.kind != "U")


def _copy_source(source: Path, source_format: SourceFormat, folder: Path) -> None:
    """Copy the model, all the files of it."""
    place, _ = split_signature(source)
    target = folder / _file_name(source, source_format).partition("#")[0]
    with disk_errors(target):
        folder.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            shutil.copytree(place, target)
            return
        shutil.copyfile(place, target)
        for beside in files_beside(place, source_format):
            copy = folder / beside.relative_to(place.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(beside, copy)


def _file_name(source: Path, source_format: SourceFormat) -> str:
    place, signature = split_signature(source)
    if source_format is SourceFormat.SAVEDMODEL:
        return f"saved_model#{signature}" if signature else "saved_model"
    if source_format is SourceFormat.KERAS:
        return "model.keras" if zipfile.is_zipfile(place) else "model.h5"
    return f"model.{source_format}"


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Empty the folder again, or remove it where it is new, when the block does not end well."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        for entry in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if is_new and folder.exists():
            folder.rmdir()
        raise


def _values(args: argparse.Namespace, source_format: SourceFormat) -> dict[str, str]:
    return {
        "model": args.model,
        "file": _file_name(args.source, source_format),
        "format": source_format.value,
        "metric": args.metric,
        "max_loss": f"{args.max_loss:g}",
        "seed": str(args.seed),
        "variants": _TUNED if _is_tunable(args.source, source_format) else _DENSE,
        "schemes": _SCHEMES.get(source_format, _TFLITE_SCHEMES),
    }


def _is_tunable(source: Path, source_format: SourceFormat) -> bool:
    """Tell whether channels can be taken away; raises ModelError for a Keras file that cannot be read."""
    return source_format is SourceFormat.KERAS and bool(kind_of_source(source, source_format))


def _write_scaffold(folder: Path, model: str, recipe: str) -> None:
    write_atomic(folder / "recipes" / "models" / f"{model}.yaml", recipe.encode())
    variants = parse_recipe(recipe, model).variants
    pairs = "".join(f"  {model}-{variant}: {{model: {model}, variant: {variant}}}\n" for variant in variants)
    write_atomic(folder / "params.yaml", f"models: [{model}]\nvariants:\n{pairs}".encode())
    places = {
        "stages.yaml": "dvc.yaml",  # dvc reads every dvc.yaml below the project, so it has another name here
        "promotion.yaml": "mlflow/promotion.yaml",
        "gitignore": ".gitignore",
        "dvcignore": ".dvcignore",
    }
    for script in sorted(_drills_folder().glob("*.drill")):
        write_atomic(folder / "recipes" / "drills" / script.name, script.read_bytes())
    for name, place in places.items():
        text = (_SCAFFOLD / name).read_text().replace("MODEL", model)
        write_atomic(folder / place, text.encode())


def _drills_folder() -> Path:
    """Return where the drill scripts are: an installed package has a copy, a project's own tree has the originals."""
    packaged = _SCAFFOLD / "drills"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "recipes" / "drills"


def _init_repositories(folder: Path) -> None:
    command = ["git", "-C", str(folder), "rev-parse"]
    inside = subprocess.run(command, capture_output=True, env=for_children(), check=False)
    if inside.returncode:
        _call(["git", "init", "--quiet", "."], folder)
    prefix = _call(["git", "rev-parse", "--show-prefix"], folder)
    # By module: the environment's own dvc, also where its folder of commands is not on the path.
    _call([sys.executable, "-m", "dvc", "init", "--quiet", *(["--subdir"] if prefix.strip() else [])], folder)


def _call(command: Sequence[str], folder: Path) -> str:
    """Run a command in the project; returns what it printed, raises FileAccess with its last words when it fails."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", env=for_children(), check=False
    )
    if done.returncode:
        words = _told(done.stderr)
        raise FileAccess(f"`{' '.join(command)}` failed in {folder} ({words}); mend that, then run this again.")
    return done.stdout


def _told(stderr: str) -> str:
    """Return the line that says why: dvc ends with one on where to get help."""
    lines = stderr.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if line.startswith(("ERROR", "fatal"))), lines[-1])
