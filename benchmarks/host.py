"""The machine that figures were measured on."""

import os
from pathlib import Path


def machine() -> str:
    """Name the processor and how many there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {os.cpu_count()} logical processors"
