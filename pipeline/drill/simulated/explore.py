"""Thousands of random drills in the simulated world: ``python -m pipeline.drill.simulated.explore --seeds 3000``.

Each seed that breaks a promise is shrunk and printed as a drill script that can be played again.
"""

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.core.environment import SECRETS
from pipeline.drill.nouns import Script
from pipeline.drill.script import format_script
from pipeline.drill.simulated.history import violations
from pipeline.drill.simulated.schedules import random_script
from pipeline.drill.simulated.shrinking import shrunk
from pipeline.drill.simulated.world import simulate

_CHUNK = 8


@dataclass(frozen=True)
class Failure:
    """A random drill that broke a promise: which ones, and the smallest script that still does."""

    seed: int
    violations: tuple[str, ...]
    script: str


@dataclass(frozen=True)
class Exploration:
    """What became of random drills."""

    schedules: int
    requests: int
    strikes: int
    seconds: float
    cpu_seconds: float  # of all processes: what it would take on processors that nobody else uses
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class _Played:
    seed: int
    requests: int
    strikes: int
    cpu_seconds: float
    violations: tuple[str, ...]


def explore(seeds: Iterable[int], processes: int = 1) -> Exploration:
    """Play the random drill of each seed, in so many processes; failures are shrunk one after the other."""
    began = time.perf_counter()
    chosen = list(seeds)
    if processes > 1:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            played = pool.map(_played, chosen, _CHUNK)
    else:
        played = [_played(seed) for seed in chosen]
    seconds = time.perf_counter() - began
    failures = tuple(_failure(one) for one in played if one.violations)
    requests, strikes = sum(one.requests for one in played), sum(one.strikes for one in played)
    return Exploration(len(played), requests, strikes, seconds, sum(one.cpu_seconds for one in played), failures)


def broken(script: Script, seed: int) -> tuple[str, ...]:
    """Play a script and return the promises that it breaks."""
    return violations(script, simulate(script, seed))


def _played(seed: int) -> _Played:
    began = time.process_time()
    gc.disable()  # a play makes few cycles; collecting them after it is a third faster
    script = random_script(seed)
    observed = simulate(script, seed)
    found = violations(script, observed)
    gc.enable()
    return _Played(seed, len(observed.requests), len(script.strikes), time.process_time() - began, found)


def _failure(played: _Played) -> Failure:
    small = shrunk(random_script(played.seed), played.seed, lambda script: bool(broken(script, played.seed)))
    return Failure(played.seed, broken(small, played.seed), format_script(small))


def main(arguments: Sequence[str]) -> int:
    """Explore from the command line; exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3000, help="how many random drills")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(arguments)
    for name in SECRETS:  # the processes below inherit all that is left
        os.environ.pop(name, None)
    found = explore(range(args.first, args.first + args.seeds), args.processes)
    for failure in found.failures:
        print(f"seed {failure.seed}:", *failure.violations, sep="\n  ")
        print(failure.script)
    print(
        f"{found.schedules} schedules, {found.requests} requests, {found.strikes} strikes in {found.seconds:.1f} s "
        f"({args.processes} processes, {found.cpu_seconds:.1f} s of processor time): {len(found.failures)} broken"
    )
    return 1 if found.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
