"""Starts a training process and waits for it: files in, files out, its complaints turned into one sentence."""

import importlib.util
import subprocess
import sys
from pathlib import Path

from pipeline.core.canonical import canonical_json
from pipeline.core.environment import for_children
from pipeline.core.errors import InternalError, MissingExtra, SurroundingsError
from pipeline.core.files import write_atomic
from pipeline.core.schema import plain
from pipeline.examples.job import Job

_MODULE = "pipeline.examples.training"
_NEEDS = ("tensorflow", "tf_keras")


def check_training_packages() -> None:
    """Raise MissingExtra when TensorFlow or Keras 2 is not installed, without importing them (which takes 13 s)."""
    for name in _NEEDS:
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(f"Training needs the package {name!r}; install it: pip install 'hotspare[build]'.")


def run_training(job: Job, folder: Path) -> None:
    """Run ``job`` in its own process; ``folder`` takes the job's file and the process's standard error.

    Raises SurroundingsError when the process was killed, InternalError when it failed.
    """
    job_file, complaints = folder / "job.json", folder / "stderr.txt"
    write_atomic(job_file, canonical_json(plain(job)))
    command = [sys.executable, "-m", _MODULE, str(job_file)]
    # Progress goes to our standard error: standard output is for figures.
    stdout = sys.stderr if job.show_progress else subprocess.DEVNULL
    with complaints.open("wb") as stderr:
        done = subprocess.run(command, stdout=stdout, stderr=stderr, env=for_children(), check=False)
    if done.returncode < 0:
        raise SurroundingsError(
            f"The training process of {job.example} was killed by signal {-done.returncode}; "
            "is there enough memory (2 GB)? Then run the same command again."
        )
    if done.returncode > 0:
        lines = complaints.read_text("utf-8", "replace").strip().splitlines() or ["no message"]
        raise InternalError(f"The training process of {job.example} failed: {lines[-1]}")
