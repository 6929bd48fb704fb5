"""Calibration of 100,000 rows in a process of its own, which reads its own peak memory."""

import subprocess
import sys

import pytest
from tiny_models import MODELS

GROWTH_MB_MAX = 300
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from pipeline.compress.schemes.storing import Clipping, calibrate, prepare
from pipeline.core.names import Format
from tiny_models import {rows}

def peak_kb(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

model_format = Format("{model_format}")
prepared = prepare(model_format, Path("{path}").read_bytes())
row = {rows}(1000, seed=0)
row = row[0] if isinstance(row, tuple) else row
calibrate(model_format, prepared, [row], Clipping.{clipping})  # libraries take their memory once
before = peak_kb("VmRSS")
ranges = calibrate(model_format, prepared, (row for _ in range(100)), Clipping.{clipping})
assert ranges
print((peak_kb("VmHWM") - before) / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("clipping", ["NONE", "MSE"])
@pytest.mark.parametrize(
    ("file", "rows"),
    [
        ("tiny_dense.tflite", "dense_rows"),
        ("tiny_embedding.tflite", "embedding_rows"),
        ("tiny_dense.onnx", "dense_rows"),
    ],
)
def test_hundred_thousand_rows_take_little_memory(file: str, rows: str, clipping: str) -> None:
    path = MODELS / file
    script = SCRIPT.format(rows=rows, model_format=file.rpartition(".")[2], path=path, clipping=clipping)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=MODELS.parents[1] / "compress", capture_output=True, text=True, check=True
    )
    growth_mb = float(done.stdout.split()[-1])
    print(f"{file}, {clipping}: 100,000 rows add {growth_mb:.1f} MB")
    assert growth_mb < GROWTH_MB_MAX + path.stat().st_size / 2**20
