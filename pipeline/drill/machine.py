"""The machine that something was measured on, in words."""

import os
import platform
from importlib import metadata
from pathlib import Path

_ENGINES = ("ai-edge-litert", "onnxruntime")


def machine_facts() -> dict[str, str]:
    """Return processor, memory, system and engine versions; no name of the machine, no address, no path."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return {
        "processor": _processor(),
        "processors": str(os.cpu_count() or 1),
        "memory": f"{memory:.1f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version for name in _ENGINES if (version := _version(name))},
    }


def _processor() -> str:
    place = Path("/proc/cpuinfo")
    lines = place.read_text(encoding="utf-8", errors="replace").splitlines() if place.exists() else []
    named = (line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.machine()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
