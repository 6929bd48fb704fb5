"""What this machine is and has, read without importing any engine."""

import os
import re
import sys
from collections.abc import Iterator

from pipeline.bundle.manifest import STAND_INS, Node

_PACKAGES = ("ai-edge-litert", "onnxruntime", *(name for names in STAND_INS.values() for name in names))
_RECORD = re.compile(r"([A-Za-z0-9_.]+)-([^-]+)\.dist-info")
_ARCHES = {"amd64": "x86_64", "arm64": "aarch64"}


def this_node() -> Node:
    """Return this machine's architecture, memory and engine packages."""
    arch = os.uname().machine.lower()
    ram_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    installed = dict(reversed(list(_installed())))  # as an import would, the first on the path wins
    return Node(_ARCHES.get(arch, arch), ram_bytes // 10**6, {name: installed[name] for name in sorted(installed)})


def _installed() -> Iterator[tuple[str, str]]:
    """Yield engine packages with their versions, by the names of their install records.

    Not by importlib.metadata: importing it and parsing whole records takes a tenth of what a verification may take.
    """
    for folder in sys.path:
        for entry in os.listdir(folder or ".") if os.path.isdir(folder or ".") else ():  # noqa: PTH112, PTH208
            match = _RECORD.fullmatch(entry)
            if match and match[1].replace("_", "-").lower() in _PACKAGES:
                yield match[1].replace("_", "-").lower(), match[2]
