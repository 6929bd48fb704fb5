"""What this machine is and has, read without importing any engine."""

import importlib.metadata
import os
import platform

from pipeline.bundle.manifest import STAND_INS, Node

_PACKAGES = ("ai-edge-litert", "onnxruntime", *(name for names in STAND_INS.values() for name in names))
_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}


def this_node() -> Node:
    """Return this machine's architecture, memory and engine packages."""
    arch = platform.machine().lower()
    ram_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Node(_ARCHES.get(arch, arch), ram_bytes // 10**6, dict(_installed()))


def _installed() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
