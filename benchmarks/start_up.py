"""How long the node's commands take to start, as whole processes: ``python benchmarks/start_up.py BUNDLE TRUST``.

Prints the median and the range of 15 runs each, beside an empty interpreter (the physical limit of a Python command).
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15


def seconds(command: list[str]) -> float:
    """Time one whole process; raises CalledProcessError when it fails."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Time the commands in turn, so that drift of the machine touches all alike."""
    bundle, trust = sys.argv[1:3]
    hotspare = str(Path(sys.executable).parent / "hotspare")
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "hotspare --help": [hotspare, "--help"],
        "hotspare verify --help": [hotspare, "verify", "--help"],
        "hotspare verify BUNDLE": [hotspare, "verify", bundle, "--trust", trust],
        "hotspare inspect BUNDLE": [hotspare, "inspect", bundle],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(RUNS):
        for name, command in commands.items():
            times[name].append(seconds(command))
    for name, values in times.items():
        print(f"{name:<26} median {statistics.median(values):.3f} s   {min(values):.3f}–{max(values):.3f} s")


if __name__ == "__main__":
    main()
