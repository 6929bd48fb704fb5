"""What ``hotspare compress`` does: the stages of a build, one after the other, in a folder of their own.

Everything is made in ``.<out>.work`` beside the output folder and moved there at the end, so that the output is whole
or absent. A killed run leaves that folder: the same command finds it and goes on.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.commands.build.console import progress
from pipeline.commands.build.pack import Packed, seal_pair
from pipeline.commands.build.prune import watch_steps
from pipeline.commands.build.quantize import watch_search
from pipeline.commands.build.report import PAGE_FILE, write_report
from pipeline.commands.build.score import examine
from pipeline.commands.build.select import select_pair
from pipeline.commands.build.wish import Wish, recipe_of
from pipeline.compress.candidates import make_candidates
from pipeline.compress.search.fanout import open_backend
from pipeline.compress.sources.source import describe, require_supported, source_format_of, split_signature
from pipeline.compress.variants import make_variant
from pipeline.core.canonical import canonical_json, readable_json, sha256_hex
from pipeline.core.errors import InputError, ModelError, Refusal, UsageError, VariantRefused
from pipeline.core.files import disk_errors, read_bytes, read_json, replacing_dir, write_atomic
from pipeline.core.findings import FINDINGS_FILE, Findings
from pipeline.core.layout import candidates_dir, report_dir, scorecards_dir, selection_dir, variant_dir
from pipeline.core.names import Role
from pipeline.core.recipe import Metric, Recipe
from pipeline.core.records import (
    CANDIDATES_FILE,
    VARIANT_FILE,
    Candidates,
    RefusedCandidate,
    VariantRecord,
    read_record,
)
from pipeline.core.schema import plain, read
from pipeline.data.splits import open_split
from pipeline.engines.open import open_session
from pipeline.score.judgeable import fitting_outputs, require_judgeable
from pipeline.score.scoring import Scores
from pipeline.score.selection import Selected
from pipeline.seal.keys import load_private_key

SUMMARY_FILE = "compress.json"
REPORT_FILE = "report.html"
_OWNER_ONLY = 0o700


@dataclass(frozen=True)
class Outcome:
    """What the stages made of a wish; ``refused`` are the variants and formats that could not be made."""

    wish: Wish
    recipe: Recipe
    made: Candidates
    refused: tuple[RefusedCandidate, ...]
    scores: Scores
    selected: Selected
    packed: tuple[Packed, ...]
    notes: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Say what the source is."""
        return describe(self.wish.model)


@dataclass(frozen=True)
class Compressed:
    """What came out: the search's reasons in words, and all of it as plain data with the paths of the final files."""

    outcome: Outcome
    why: tuple[str, ...]
    document: dict[str, Any]


def compress(wish: Wish) -> Compressed:
    """Make candidates, measure them, pick the pair, write ``wish.out``; nothing of it is left behind on an error.

    Raises what the stages raise; UsageError for an output folder that holds something else.
    """
    source_format = source_format_of(wish.model)
    require_supported(wish.model, source_format)
    _require_ours(wish.out)
    _require_apart(wish)
    key = load_private_key(wish.key) if wish.key else None
    with _workplace(wish) as work:
        recipe, notes = recipe_of(wish, source_format, work)
        recipe, refused = _with_dense(recipe, wish, work)
        recipe, more = _judged(recipe, wish, work)
        recipe, unmade = _with_variants(recipe, work)
        made = _candidates(recipe, wish, work)
        scores = examine(recipe, work)
        selected = select_pair(recipe, work)
        write_report(recipe, work)
        packed = seal_pair(recipe, key, work) if key else ()
        return _publish(
            Outcome(wish, recipe, made, (*refused, *unmade), scores, selected, packed, (*notes, *more)), work
        )


def _require_ours(out: Path) -> None:
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / SUMMARY_FILE).is_file())):
        raise UsageError(f"{out} is there and was not written by `hotspare compress`; name another folder for --out.")


def _require_apart(wish: Wish) -> None:
    """Raise UsageError for what is read from within the output folder, which is replaced whole: it would be deleted."""
    out = wish.out.resolve()
    read_from = {"MODEL": split_signature(wish.model)[0], "--data": Path(wish.data), "--key": wish.key}
    for what, path in read_from.items():
        if path is not None and path.exists() and path.resolve().is_relative_to(out):
            raise UsageError(
                f"{what} {path} lies in {wish.out}, which is replaced whole; name another folder for --out."
            )


@contextmanager
def _workplace(wish: Wish) -> Iterator[Path]:
    """Yield the folder of this wish's unfinished work, kept when the process is killed, removed when it ends."""
    place = wish.out.absolute()
    work = place.parent / f".{place.name}.work"
    digest = work / "wish.sha256"
    asked = sha256_hex(canonical_json([plain(_comparable(wish)), *_identity(wish.model), *_identity(Path(wish.data))]))
    _require_own(work, digest)
    if work.exists() and (not digest.is_file() or digest.read_text() != asked):
        shutil.rmtree(work)
    with disk_errors(work):
        work.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)  # it holds copies of the rows
    write_atomic(digest, asked.encode())
    try:
        yield work
    except (InputError, Refusal) as error:  # the same command would fail again
        shutil.rmtree(work)
        raise _retold(error, wish, work) from error
    shutil.rmtree(work)


def _retold(error: InputError | Refusal, wish: Wish, work: Path) -> InputError | Refusal:
    """Let an error name the person's own data where it names a folder that is gone by the time it is read."""
    rows = rf"{re.escape(str(work))}/data/(\w+)\.npz"
    said = re.sub(rows, lambda found: f"{wish.data} ({found[1]} rows)", str(error)).replace(f"{work}/", "")
    if said == str(error):
        return error
    return type(error)(said)


def _require_own(work: Path, digest: Path) -> None:
    """Raise UsageError for a folder in the place of our unfinished work that is not: it would be used or deleted."""
    if not os.path.lexists(work):
        return
    is_own = not work.is_symlink() and work.is_dir() and work.stat().st_uid == os.geteuid()
    aside = f".aside-{digest.name}."
    if not is_own or not (digest.is_file() or all(item.name.startswith(aside) for item in work.iterdir())):
        raise UsageError(f"{work} is in the way and is no unfinished work of yours; move it, or name another --out.")


def _comparable(wish: Wish) -> dict[str, Any]:
    paths = {"model": str(wish.model), "out": str(wish.out), "key": str(wish.key)}
    return {**plain(replace(wish, key=None)), **paths}


def _identity(path: Path) -> tuple[str, int, int]:
    """Return what tells a file from its earlier self without reading it: a data set may be larger than memory."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    stats = [item.stat() for item in files if item.exists()]
    return str(path), sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def _with_variants(recipe: Recipe, work: Path) -> tuple[Recipe, tuple[RefusedCandidate, ...]]:
    """Make every variant but ``dense``; what cannot be made is left out of the recipe, with its reason."""
    refused: tuple[RefusedCandidate, ...] = ()
    for variant in [name for name in recipe.variants if name != "dense"]:
        try:
            _make(recipe, variant, work)
        except VariantRefused as error:
            refused = (*refused, RefusedCandidate(variant, str(error)))
            recipe = replace(recipe, variants={name: how for name, how in recipe.variants.items() if name != variant})
    return recipe, refused


def _judged(recipe: Recipe, wish: Wish, work: Path) -> tuple[Recipe, tuple[str, ...]]:
    """Refuse rows that could not be scored before minutes of work go into them; find which output they judge."""
    folder = variant_dir(recipe.model, "dense", work)
    export = next(iter(read_record(VariantRecord, folder / VARIANT_FILE, "compress").exports.items()))
    session = open_session(export[0], read_bytes(folder / export[1].file))
    split = open_split(Path(recipe.data.validation), [spec.name for spec in session.inputs], recipe.slices)
    notes: tuple[str, ...] = ()
    if len(session.outputs) > 1 and recipe.output is None and recipe.metric is not Metric.FIDELITY:
        fitting = fitting_outputs(recipe, session, split)
        if len(fitting) == 1:
            recipe = replace(recipe, output=fitting[0])
            notes = (f"Of several outputs, {fitting[0]} alone fits the labels and is judged; --output names another.",)
    require_judgeable(recipe, session, split, wish.data)
    return recipe, notes


def _with_dense(recipe: Recipe, wish: Wish, work: Path) -> tuple[Recipe, tuple[RefusedCandidate, ...]]:
    """Export the model itself; where one format refuses it and the person named none, the other alone is taken."""
    try:
        _make(recipe, "dense", work)
    except VariantRefused as error:
        left = {name: schemes for name, schemes in recipe.schemes.items() if name not in str(error).split()}
        if wish.formats or not left or left == recipe.schemes:
            raise
        recipe = replace(recipe, schemes=left)
        _make(recipe, "dense", work)
        return recipe, (RefusedCandidate("dense", str(error)),)
    return recipe, ()


def _make(recipe: Recipe, variant: str, work: Path) -> None:
    record = variant_dir(recipe.model, variant, work) / VARIANT_FILE
    if record.exists() and set(read_record(VariantRecord, record, "compress").exports) >= set(recipe.schemes):
        return
    with watch_steps(f"{recipe.model} {variant}") as on_step:
        make_variant(recipe, variant, on_step, work)


def _candidates(recipe: Recipe, wish: Wish, work: Path) -> Candidates:
    record = candidates_dir(recipe.model, work) / CANDIDATES_FILE
    if record.exists():
        return read_record(Candidates, record, "compress")
    with watch_search(recipe.model) as watcher:
        backend = open_backend(wish.backend, wish.address, wish.workers)
        return make_candidates(recipe, lambda names: progress(names, "quantizing"), work, backend, watcher)


def _publish(outcome: Outcome, work: Path) -> Compressed:
    """Move what was made into the output folder, together with the summary that names its files."""
    wish, model = outcome.wish, outcome.recipe.model
    places = {"candidates": candidates_dir, "scorecards": scorecards_dir, "selection": selection_dir}
    findings = read(Findings, read_json(candidates_dir(model, work) / FINDINGS_FILE, ModelError))
    document = _document(outcome, findings)
    with replacing_dir(wish.out) as aside:
        for name, place in places.items():
            shutil.copytree(place(model, work), aside / name)
        shutil.copyfile(report_dir(model, work) / PAGE_FILE, aside / REPORT_FILE)
        for item in outcome.packed:
            shutil.copytree(item.path, aside / "bundles" / item.path.name)
        write_atomic(aside / SUMMARY_FILE, readable_json(document))
    return Compressed(outcome, findings.why, document)


def _document(outcome: Outcome, findings: Findings) -> dict[str, Any]:
    wish, recipe, selected = outcome.wish, outcome.recipe, outcome.selected
    paths = {str(item.name): str(wish.out / "candidates" / item.file) for item in outcome.made.candidates}
    operators = {str(item.name): plain(item.operators) for item in outcome.made.candidates}
    diagnoses = {item.candidate: plain(item) for item in outcome.scores.diagnoses}
    reasons = {item.candidate: list(item.reasons) for item in selected.verdicts}
    roles = {
        role.value: {
            "candidate": name,
            "path": paths[name],
            "reasons": reasons[name],
            "locked_test": plain(selected.locked_test[role]),
        }
        for role, name in ((Role.PRIMARY, selected.primary), (Role.BACKUP, selected.backup))
    }
    return {
        "model": recipe.model,
        "source": {"path": str(wish.model), "kind": outcome.kind},
        "metric": recipe.metric.value,
        "budgets": plain(recipe.budgets),
        "notes": list(outcome.notes),
        "candidates": [
            {
                **plain(card),
                "path": paths[card.candidate],
                "operators": operators[card.candidate],
                "diagnosis": diagnoses.get(card.candidate),
            }
            for card in outcome.scores.cards
        ],
        "refused": plain((*outcome.refused, *outcome.scores.scored.refused)),
        "selection": {**roles, "warnings": list(selected.warnings)},
        "search": plain(findings),
        "report": str(wish.out / REPORT_FILE),
        "bundles": {
            item.role.value: {"path": str(wish.out / "bundles" / item.path.name), "bundle_id": item.id}
            for item in outcome.packed
        },
    }
