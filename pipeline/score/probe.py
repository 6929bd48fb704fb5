"""One fresh process that loads one model, runs it once and tells what that took: ``python -m pipeline.score.probe``.

It loads numpy, the engine and nothing else of the build side, so its memory is what a serving process would take.
"""

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.core.errors import HotspareError
from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.engines.base import Session
from pipeline.engines.open import open_session

_LOADS = 5
_STATUS = Path("/proc/self/status")


def main(arguments: Sequence[str]) -> int:
    """Take FILE FORMAT ROWS THREADS and print ``{"load_ms", "rss_mb"}`` as JSON."""
    path, model_format, rows, threads = arguments
    try:
        model = Path(path).read_bytes()
        session = open_session(Format(model_format), model, int(threads))
        session.run(blank_inputs(session, int(rows)))
        rss_mb = peak_rss_mb()
        load_ms = statistics.median(_load_ms(Format(model_format), model, int(threads)) for _ in range(_LOADS))
    except HotspareError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps({"load_ms": load_ms, "rss_mb": rss_mb}))
    return 0


def blank_inputs(session: Session, rows: int) -> dict[str, Array]:
    """Return ``rows`` rows of zeros for every input: valid for numbers and for ids alike."""
    shapes = {spec.name: [1 if axis == -1 else axis for axis in spec.shape[1:]] for spec in session.inputs}
    return {spec.name: np.zeros([rows, *shapes[spec.name]], spec.dtype) for spec in session.inputs}


def peak_rss_mb() -> float:
    """Return this process's peak resident memory in 10^6 bytes.

    Linux keeps it per program (VmHWM); the older ru_maxrss also counts the parent's memory from before the exec.
    """
    if _STATUS.exists():
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _load_ms(model_format: Format, model: bytes, threads: int) -> float:
    started = time.perf_counter()
    open_session(model_format, model, threads)
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # tearing engines down is not measured and takes a while
