"""hotspare's own files: every uniform scheme of every variant, and what the search chooses."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.compress.candidates import make_candidates
from pipeline.core.errors import MissingStageError
from pipeline.core.files import read_bytes
from pipeline.core.findings import FINDINGS_FILE, Findings
from pipeline.core.layout import candidates_dir
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Recipe, Search
from pipeline.core.records import CandidateRecord, Candidates, read_record

# Beside a search only the float files are asked for: the uniform ones are made once, by `make_uniform`.
_FLOAT_ONLY = {Format.TFLITE: (Scheme.F32,), Format.ONNX: (Scheme.F32,)}


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


def run_search(recipe: Recipe, search: Search, root: Path) -> Found:
    """Search over the variants and formats of ``recipe`` below ``root``, which holds their exports."""
    started = time.perf_counter()
    made = make_candidates(replace(recipe, schemes=_FLOAT_ONLY, search=search), root=root)
    seconds = time.perf_counter() - started
    findings = read_record(Findings, candidates_dir(recipe.model, root) / FINDINGS_FILE, f"quantize {recipe.model}")
    chosen = next((file for file in _files(made, root) if file.name == findings.chosen), None)
    return Found(chosen, seconds, findings.complete, findings.why)


def _files(made: Candidates, root: Path) -> tuple[File, ...]:
    folder = candidates_dir(made.model, root)
    return tuple(File(item, read_bytes(folder / item.file, MissingStageError)) for item in made.candidates)
