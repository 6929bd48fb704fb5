import importlib.metadata
import os
import platform
from pathlib import Path

import pytest

from pipeline.bundle.node import this_node


def test_engine_packages_are_those_that_python_itself_reports() -> None:
    found = this_node().packages
    assert found["ai-edge-litert"] == importlib.metadata.version("ai-edge-litert")
    assert found["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert "tflite-runtime" not in found


def test_the_first_on_the_path_wins_and_odd_entries_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, version in (("a", "2.4.0"), ("b", "2.3.0")):
        (tmp_path / place / f"ai_edge_litert-{version}.dist-info").mkdir(parents=True)
    (tmp_path / "archive.zip").touch()
    places = [tmp_path / "archive.zip", tmp_path / "none", tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr("sys.path", [str(place) for place in places])
    assert this_node().packages == {"ai-edge-litert": "2.4.0"}


def test_the_machine_is_named_as_targets_name_it() -> None:
    node = this_node()
    assert node.arch in ("x86_64", "aarch64") or node.arch == platform.machine()
    assert node.ram_mb == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6
