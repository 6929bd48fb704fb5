"""Runs one job: steps and a failure go out as JSON lines, exports and ``result.json`` to the job's folder."""

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from pipeline.compress.job import RESULT_FILE, Failure, Job, Step
from pipeline.compress.sources.source import KERAS_3, kind_of_source, require_tunable
from pipeline.core.errors import HotspareError, InternalError, MissingExtra, SurroundingsError
from pipeline.core.files import read_json
from pipeline.core.records import write_record
from pipeline.core.schema import plain, read


def main() -> int:
    """Run the job that the first argument names; returns the exit code of ``core/errors.py``."""
    events = _claim_stdout()
    _end_with_parent()
    try:
        job = read(Job, read_json(Path(sys.argv[1]), InternalError, "this process is started by `hotspare prune`"))
        _run(job, lambda step: _say(events, step))
    except HotspareError as error:
        _say(events, Failure(error.exit_code, str(error)))
        return error.exit_code
    except ModuleNotFoundError as error:
        _say(
            events,
            Failure(MissingExtra.exit_code, f"The package {error.name!r} is missing: pip install 'hotspare[build]'."),
        )
        return MissingExtra.exit_code
    return 0


def _end_with_parent() -> None:
    """End this process when its standard input ends: its parent is gone, and workers would wait for ever."""

    def watch() -> None:
        # Not through sys.stdin: the interpreter aborts when it ends while a thread holds that buffer's lock.
        while os.read(0, 4096):
            pass
        os._exit(SurroundingsError.exit_code)

    threading.Thread(target=watch, daemon=True).start()


def _claim_stdout() -> TextIO:
    """Keep standard output for events; whatever a library prints goes to the log with standard error."""
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return events


def _say(events: TextIO, event: Step | Failure) -> None:
    """Write one event; when the parent is gone the pipe breaks and this process ends with it."""
    print(json.dumps(plain(event)), file=events, flush=True)


def _run(job: Job, on_step: Callable[[Step], None]) -> None:
    kind = kind_of_source(Path(job.source), job.source_format)
    require_tunable(job, kind)
    # Only now is the job known to be sound: what follows starts TensorFlow.
    if kind == KERAS_3:
        os.environ["TF_USE_LEGACY_KERAS"] = "0"
    from pipeline.compress.training.variant import make_result

    result = make_result(job, kind, on_step)
    if result is None:
        threading.Event().wait()  # a worker that leaves would fail the others; the parent ends it
    write_record(Path(job.out, RESULT_FILE), result)


if __name__ == "__main__":
    sys.exit(main())
