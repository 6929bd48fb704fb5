"""hotspare's own files: every uniform scheme of every variant, and what the search chooses."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from replaying import FLOAT_ONLY, keeping

from pipeline.compress.candidates import make_candidates
from pipeline.core.errors import MissingStageError
from pipeline.core.files import read_bytes
from pipeline.core.findings import FINDINGS_FILE, Findings
from pipeline.core.layout import candidates_dir
from pipeline.core.recipe import Recipe, Search
from pipeline.core.records import CandidateRecord, Candidates, read_record


@dataclass(frozen=True)
class File:
    """One candidate file, in memory."""

    record: CandidateRecord
    model: bytes

    @property
    def name(self) -> str:
        """Return the candidate's name."""
        return str(self.record.name)


@dataclass(frozen=True)
class Found:
    """What a search chose: None when nothing could be shown to meet the budget; ``why`` says so in words."""

    chosen: File | None
    seconds: float
    complete: bool
    why: tuple[str, ...]


def make_uniform(recipe: Recipe, root: Path) -> tuple[tuple[File, ...], dict[str, str]]:
    """Make every uniform candidate below ``root``; returns the files and, by name, why others were refused."""
    made = make_candidates(replace(recipe, search=None), root=root)
    return _files(made, root), {item.candidate: item.reason for item in made.refused}


def run_search(recipe: Recipe, search: Search, root: Path, aside: Path) -> Found:
    """Search over the variants and formats of ``recipe`` below ``root``, which holds their exports.

    What was measured is kept in the folder ``aside``, for :func:`replaying.replay`.
    """
    started = time.perf_counter()
    work = root / "work" / "search" / recipe.model
    recipe = replace(recipe, schemes=FLOAT_ONLY, search=search)
    made = make_candidates(recipe, root=root, watcher=keeping(work, aside))
    seconds = time.perf_counter() - started
    findings = read_record(Findings, candidates_dir(recipe.model, root) / FINDINGS_FILE, f"quantize {recipe.model}")
    chosen = next((file for file in _files(made, root) if file.name == findings.chosen), None)
    return Found(chosen, seconds, findings.complete, findings.why)


def _files(made: Candidates, root: Path) -> tuple[File, ...]:
    folder = candidates_dir(made.model, root)
    return tuple(File(item, read_bytes(folder / item.file, MissingStageError)) for item in made.candidates)
