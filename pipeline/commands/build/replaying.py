"""Replaying a recipe: dvc runs those stages of one model that are not up to date; what each took is measured here.

dvc and not the commands: it knows what is up to date, goes on after a kill, and ``dvc.lock`` stays true, so that the
next ``dvc repro`` of a person finds nothing to do.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import layout
from pipeline.core.environment import SIGNING_KEY, for_children
from pipeline.core.errors import MissingStageError, ReplayFailed, Unreachable
from pipeline.core.recipe import Recipe

PIPELINE = Path("dvc.yaml")
_LAST = ("drill", "report")
_BEGINS = re.compile(r"Running stage '([^']+)':")
_ENDS = re.compile(r"(?:Updating|Generating) lock file ")
_BUSY = re.compile(r"Unable to acquire lock|it is being blocked by")
_LINES_KEPT = 40


@dataclass(frozen=True)
class Took:
    """A stage that ran, and its wall time."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Replayed:
    """The stages that ran, in their order, and the wall time of all, with dvc's own."""

    stages: tuple[Took, ...]
    seconds: float


OnStage = Callable[[str], None]
Clock = Callable[[], float]


def replay(recipe: Recipe, on_stage: OnStage, clock: Clock = time.monotonic) -> Replayed:
    """Bring everything of a model up to and with its drill and report up to date.

    Raises MissingStageError without a ``dvc.yaml``, Unreachable while another dvc is at work in this project,
    ReplayFailed with what the stage said when one fails.
    """
    if not PIPELINE.is_file():
        raise MissingStageError(f"{PIPELINE} does not exist, so there are no stages to replay; see `hotspare init`.")
    began = clock()
    if _is_trained_here(recipe):
        # The model that was put there is what this stage made, from now on: else dvc would train the old one again.
        _run_dvc(recipe.model, ["commit", "--force", "--quiet", f"train@{recipe.model}"], lambda _: None)
    meter = Meter(clock, on_stage)
    _run_dvc(recipe.model, ["repro", *(f"{stage}@{recipe.model}" for stage in _LAST)], meter.hear)
    return Replayed(meter.finish(), clock() - began)


def _is_trained_here(recipe: Recipe) -> bool:
    return layout.trained_dir(recipe.model) in Path(recipe.source.path).parents


class Meter:
    """Tells from dvc's words when a stage begins and when its outputs are kept."""

    def __init__(self, clock: Clock, on_stage: OnStage) -> None:
        self._clock, self._on_stage = clock, on_stage
        self._running: tuple[str, float] | None = None
        self._took: list[Took] = []

    def hear(self, line: str) -> None:
        """Take one line of what dvc says."""
        begins = _BEGINS.search(line)
        if begins:
            self._end()
            self._running = begins[1], self._clock()
            self._on_stage(begins[1])
        elif _ENDS.search(line):
            self._end()

    def finish(self) -> tuple[Took, ...]:
        """Return what all stages took."""
        self._end()
        return tuple(self._took)

    def _end(self) -> None:
        if self._running is not None:
            stage, began = self._running
            self._took.append(Took(stage, self._clock() - began))
            self._running = None


def _run_dvc(model: str, arguments: list[str], hear: Callable[[str], None]) -> None:
    command = [sys.executable, "-m", "dvc", *arguments]
    said: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        text=True, errors="replace", env=_environment(os.environ),
    ) as dvc:  # fmt: skip
        for line in _lines(dvc):
            said = [*said, line][-_LINES_KEPT:]
            hear(line)
    if dvc.returncode == 0:
        return
    if any(_BUSY.search(line) for line in said):
        raise Unreachable(f"Another dvc is at work in this project; {model} is replayed when it has ended.")
    lines = [line.strip() for line in said if line.strip()]
    told = [line for line in lines if line.startswith(("hotspare ", "ERROR: "))] or lines[-3:]
    raise ReplayFailed(f"The recipe of {model} could not be replayed; the pair in force stays.", told)


def _lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None  # noqa: S101 - piped above; tells the type checker
    yield from process.stdout


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what dvc inherits: the signing key, for ``pack`` and ``drill``, and no other secret; our own commands."""
    kept = for_children(ours)
    if SIGNING_KEY in ours:
        kept[SIGNING_KEY] = ours[SIGNING_KEY]
    here = str(Path(sys.executable).parent)
    return {
        **kept,
        "PATH": f"{here}{os.pathsep}{ours.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }
