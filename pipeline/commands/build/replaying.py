"""Replaying a recipe: dvc runs those stages of one model that are not up to date; what each took is measured here.

dvc and not the commands: it knows what is up to date, goes on after a kill, and ``dvc.lock`` stays true, so that the
next ``dvc repro`` of a person finds nothing to do.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import layout
from pipeline.core.environment import SIGNING, STORE, for_children
from pipeline.core.errors import MissingStageError, ReplayFailed, Unreachable
from pipeline.core.recipe import Recipe

PIPELINE = Path("dvc.yaml")
_PROGRAM = "pipeline.commands.build.waiting_dvc"
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


def replay(recipe: Recipe, on_stage: OnStage, dvc: "Dvc | None" = None, clock: Clock = time.monotonic) -> Replayed:
    """Bring everything of a model up to and with its drill and report up to date.

    Raises MissingStageError without a ``dvc.yaml``, Unreachable while another dvc is at work in this project,
    ReplayFailed with what the stage said when one fails.
    """
    if not PIPELINE.is_file():
        raise MissingStageError(f"{PIPELINE} does not exist, so there are no stages to replay; see `hotspare init`.")
    began = clock()
    commands = [["repro", *(f"{stage}@{recipe.model}" for stage in _LAST)]]
    if _is_trained_here(recipe):
        # The model that was put there is what this stage made, from now on: else dvc would train the old one again.
        commands.insert(0, ["commit", "--force", "--quiet", f"train@{recipe.model}"])
    meter = Meter(clock, on_stage)
    (dvc or Dvc()).run(recipe.model, commands, meter.hear)
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


@dataclass
class Dvc:
    """dvc in a process of its own, which may be started long before it is needed: its imports are a good part of it."""

    _waiting: "subprocess.Popen[str] | None" = None

    def get_ready(self) -> None:
        """Have a process wait for the next run, if there is none; one whose starter is gone ends by itself."""
        if self._waiting is None or self._waiting.poll() is not None:
            self._waiting = subprocess.Popen(
                [sys.executable, "-m", _PROGRAM],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.PIPE,
                text=True, errors="replace", env=_environment(os.environ),
            )  # fmt: skip

    def run(self, model: str, commands: Sequence[Sequence[str]], hear: Callable[[str], None]) -> None:
        """Run commands in their order, each line heard as it comes; raises as :func:`replay` does."""
        self.get_ready()
        process, self._waiting = self._waiting, None
        assert process is not None and process.stdin is not None  # noqa: S101 - just made so
        said: list[str] = []
        with process:
            with contextlib.suppress(BrokenPipeError):  # it has ended: its exit status tells
                process.stdin.write(f"{json.dumps(commands)}\n")
                process.stdin.close()
            for line in _lines(process):
                said = [*said, line][-_LINES_KEPT:]
                hear(line)
        if process.returncode != 0:
            raise _failure(model, said)

    def close(self) -> None:
        """End a process that waits; it has begun nothing, and may be seconds into its imports."""
        if self._waiting is not None:
            with self._waiting as process:
                process.kill()
                process.communicate()
            self._waiting = None


def _failure(model: str, said: Sequence[str]) -> Unreachable | ReplayFailed:
    if any(_BUSY.search(line) for line in said):
        return Unreachable(f"Another dvc is at work in this project; {model} is replayed when it has ended.")
    lines = [line.strip() for line in said if line.strip()]
    told = [line for line in lines if line.startswith(("hotspare ", "ERROR: "))] or lines[-3:]
    return ReplayFailed(f"The recipe of {model} could not be replayed; the pair in force stays.", told)


def _lines(process: "subprocess.Popen[str]") -> Iterator[str]:
    assert process.stdout is not None  # noqa: S101 - piped above; tells the type checker
    yield from process.stdout


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return what dvc inherits: our own commands, and of the secrets those that its stages need.

    They are the signing key and its PIN, for ``pack`` and ``drill``, and the key of a bucket, which dvc or a data
    function may read. No stage of a replay asks the registry.
    """
    here = str(Path(sys.executable).parent)
    return {
        **for_children(ours, SIGNING | STORE),
        "PATH": f"{here}{os.pathsep}{ours.get('PATH', '')}",
        "PYTHONUNBUFFERED": "1",
        "DVC_NO_ANALYTICS": "1",
    }
