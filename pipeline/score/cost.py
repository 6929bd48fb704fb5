"""What a candidate costs: bytes, time to load, latency beside the float reference, memory of a fresh process."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from pipeline.core.environment import for_children
from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.records import CandidateRecord
from pipeline.score.efficiency import efficiency
from pipeline.score.scorecard import PLACES, Size, Timings

ZSTD_LEVEL = 19
_WARM_UP_CALLS = 10
_PAIRS_LEAST = 30
_PAIRS_MOST = 2000
_LATENCY_SECONDS = 0.3
_PROBE_SECONDS_MAX = 300

Call = Callable[[], object]


def measure_size(record: CandidateRecord, model: bytes, reference: CandidateRecord, reference_bytes: int) -> Size:
    """Return what the candidate's file weighs, with its ratios to the reference."""
    ratios = efficiency(len(model), reference_bytes, record.weight_bits_mean, reference.weight_bits_mean)
    return Size(
        bytes=len(model),
        bytes_zstd=len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(model)),
        weight_bits_mean=record.weight_bits_mean,
        quantized_ratio=record.quantized_ratio,
        sparsity_ratio=record.sparsity_ratio,
        volume_ratio=round(ratios.volume_ratio, PLACES),
        precision_ratio=round(ratios.precision_ratio, PLACES),
        deployment_efficiency=round(ratios.deployment_efficiency, PLACES),
        saving_ratio=round(ratios.saving, PLACES),
    )


def measure_timings(
    path: Path, model_format: Format, rows: int, threads: int, candidate: Call, reference: Call
) -> Timings:
    """Measure both calls interleaved (each predicts the same ``rows`` rows), and ``path`` in a fresh process.

    Raises ModelError when the fresh process cannot load or run the file.
    """
    ours, theirs = interleave(candidate, reference)
    load_ms, rss_mb = probe(path, model_format, rows, threads)
    p50, p95 = np.quantile(ours, [0.5, 0.95])
    return Timings(
        load_ms=round(load_ms, 3),
        latency_p50_ms=round(float(p50), 4),
        latency_p95_ms=round(float(p95), 4),
        latency_ratio_p50=round(float(p50 / np.median(theirs)), 3),
        rss_mb=round(rss_mb, 1),
        rows=rows,
        threads=threads,
    )


def interleave(candidate: Call, reference: Call) -> tuple[list[float], list[float]]:
    """Time the two calls in turn, A B A B …, so that a busy moment of the machine hits both; milliseconds each."""
    for _ in range(_WARM_UP_CALLS):
        candidate()
        reference()
    ours: list[float] = []
    theirs: list[float] = []
    until = time.perf_counter() + _LATENCY_SECONDS
    while len(ours) < _PAIRS_LEAST or (len(ours) < _PAIRS_MOST and time.perf_counter() < until):
        ours.append(_milliseconds(candidate))
        theirs.append(_milliseconds(reference))
    return ours, theirs


def probe(path: Path, model_format: Format, rows: int, threads: int) -> tuple[float, float]:
    """Return (load_ms, rss_mb) of a fresh process that loads ``path`` and runs ``rows`` rows once.

    Raises ModelError when it fails or takes longer than five minutes.
    """
    command = [sys.executable, "-m", "pipeline.score.probe", str(path), model_format, str(rows), str(threads)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_SECONDS_MAX, check=False, env=for_children()
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"{path} did not load and run within {_PROBE_SECONDS_MAX} s in its own process.") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ModelError(f"{path} cannot be loaded and run in its own process: {last}")
    answer = json.loads(done.stdout)
    return float(answer["load_ms"]), float(answer["rss_mb"])


def _milliseconds(call: Call) -> float:
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e6
