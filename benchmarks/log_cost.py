"""What a log of updates costs: ``python benchmarks/log_cost.py``: its bytes, reading it again, dropping its older half.

The updates are made up, each of as many activations as the last layer of the credit example takes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.online.learner import ID_BYTES, Update, encode_update
from pipeline.online.update_log import UpdateLog

BASE_ID = "ab" * 32


def measure(folder: Path, updates: int, activations: int) -> tuple[int, float, float]:
    """Write a log; return its bytes, the seconds of reading it and those of dropping half of it."""
    rows = np.random.default_rng(0).normal(size=(updates, activations)).astype(np.float32)
    path = folder / "updates.log"
    log = UpdateLog(path, BASE_ID)
    log.append(1, [encode_update(Update(n.to_bytes(ID_BYTES, "big"), 1.0, row)) for n, row in enumerate(rows)])
    log.close()
    size = path.stat().st_size
    began = time.perf_counter()
    log = UpdateLog(path, BASE_ID)
    read = time.perf_counter()
    log.shorten(updates // 2)
    shortened = time.perf_counter()
    log.close()
    return size, read - began, shortened - read


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--activations", type=int, default=64)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="hotspare-log-") as folder:
        size, read_s, shorten_s = measure(Path(folder), args.updates, args.activations)
    print(
        f"{args.updates:,} updates of {args.activations} activations: {size / 1e6:.1f} MB,"
        f" read in {read_s:.2f} s, half of them dropped in {shorten_s:.2f} s"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
