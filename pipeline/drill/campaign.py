"""A campaign held cell by cell: a line for each finished play, so that another call goes on where this one ended."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pipeline
from pipeline.core import recipe as recipes
from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.errors import FileAccess, InternalError
from pipeline.core.files import disk_errors, read_bytes, write_atomic
from pipeline.core.schema import SchemaProblems, plain, read
from pipeline.drill.campaign_recipe import Cell
from pipeline.drill.nouns import Observed, Script
from pipeline.drill.results import Play, Repeat, examined
from pipeline.drill.script import format_script

RUNS_FILE = "runs.jsonl"


@dataclass(frozen=True)
class Run:
    """One finished play of a cell; ``made_of`` is the digest of all that it followed from."""

    made_of: str
    cell: str
    number: int
    repeat: Repeat


@dataclass(frozen=True)
class Todo:
    """One play that is still to be held."""

    made_of: str
    cell: Cell
    number: int


@dataclass(frozen=True)
class Ground:
    """What all plays of a campaign follow from, beside their scripts; ``drills`` are those that the recipe judges.

    ``machine`` is empty for the simulated world, whose plays are the same on any.
    """

    world: str
    bundles: Mapping[str, str]
    objectives: recipes.Objectives
    drills: tuple[str, ...]
    code_sha256: str
    machine: Mapping[str, str] = field(default_factory=dict)

    def made_of(self, cell: Cell) -> str:
        """Return the digest of what plays follow from: code, machine, bundles, script, load, settings, objectives."""
        script, machine = format_script(cell.script), dict(self.machine)
        parts = [cell.name, self.world, dict(self.bundles), self.code_sha256, machine, script, cell.is_judged]
        return sha256_hex(canonical_json([*parts, plain(self.beside(cell))]))

    def beside(self, cell: Cell) -> recipes.Objectives:
        """Return what the model's recipe asks of a cell: of the drills that it lists, as they are written."""
        is_asked = cell.is_as_written and cell.is_judged and cell.drill in self.drills
        return self.objectives if is_asked else recipes.Objectives()


def code_sha256() -> str:
    """Return the digest of this package's code."""
    root = Path(pipeline.__file__).parent
    places = sorted(root.rglob("*.py"))
    return sha256_hex(canonical_json([[str(one.relative_to(root)), sha256_hex(one.read_bytes())] for one in places]))


class Runs:
    """The plays in ``runs.jsonl``: those that still hold are known, each further one is on disk before the next."""

    def __init__(self, folder: Path, ground: Ground, cells: Sequence[Cell]) -> None:
        self._path = folder / RUNS_FILE
        self._ground = ground
        self._cells = {ground.made_of(cell): cell for cell in cells}
        self._known: dict[tuple[str, int], Run] = {}

    def recall(self) -> None:
        """Read what an earlier call left; half a line at its end, and what followed from something else, is forgotten.

        Raises FileAccess when the file cannot be read or written.
        """
        lines = read_bytes(self._path, FileAccess).split(b"\n") if self._path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError, SchemaProblems):
                self._keep(read(Run, json.loads(line)))
        self._write()

    def forget(self) -> None:
        """Begin anew."""
        self._known.clear()
        self._write()

    def digest(self) -> str:
        """Return the digest of the file: it says which plays a result was made of."""
        return sha256_hex(read_bytes(self._path, FileAccess)) if self._path.exists() else ""

    def todo(self) -> list[Todo]:
        """Return the plays that are not held yet, in order."""
        return [
            Todo(made_of, cell, number)
            for made_of, cell in self._cells.items()
            for number in range(cell.repeats)
            if (made_of, number) not in self._known
        ]

    def of(self, cell: Cell) -> tuple[Repeat, ...]:
        """Return the plays of a cell, in order."""
        made_of = self._ground.made_of(cell)
        numbers = (number for number in range(cell.repeats) if (made_of, number) in self._known)
        return tuple(self._known[made_of, number].repeat for number in numbers)

    def add(self, todo: Todo, observed: Observed) -> Run:
        """Judge a play and write its line through to the disk."""
        run = Run(todo.made_of, todo.cell.name, todo.number, self.judged(todo, observed))
        self._keep(run)
        with disk_errors(self._path), self._path.open("ab") as file:
            file.write(_line(run))
            file.flush()
            os.fsync(file.fileno())
        return run

    def judged(self, todo: Todo, observed: Observed) -> Repeat:
        """Measure and judge a play by its script and what the model's recipe asks beside."""
        repeat = examined(_seeded(todo), observed, self._ground.beside(todo.cell))
        return replace(repeat, measures=replace(repeat.measures, spans=()))  # figures alone: nothing is drawn of them

    def _keep(self, run: Run) -> None:
        cell = self._cells.get(run.made_of)
        if cell is not None and run.number < cell.repeats:
            self._known[run.made_of, run.number] = run

    def _write(self) -> None:
        write_atomic(self._path, b"".join(map(_line, self._known.values())))


def play_all(runs: Runs, play: Play, watch: Callable[[Sequence[Todo]], Iterable[Todo]] = iter) -> None:
    """Hold every play that is still to be held; ``watch`` wraps them for a progress bar."""
    for todo in watch(runs.todo()):
        runs.add(todo, _played(todo, play))


def _played(todo: Todo, play: Play) -> Observed:
    """Play once; a pair that could not even be started costs its cell, not the night."""
    try:
        return play(_seeded(todo), todo.number)
    except InternalError as error:
        return Observed("", (), (), (), left_out=f"It broke: {error}")


def _seeded(todo: Todo) -> Script:
    """Return the script with a load of its own for each repeat."""
    script = todo.cell.script
    return replace(script, load=replace(script.load, seed=script.load.seed + todo.number))


def _line(run: Run) -> bytes:
    return canonical_json(plain(run)) + b"\n"
