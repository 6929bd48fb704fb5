import json
from typing import Any

import pytest
from sealed import NOW, Sealed, tiny_payload

from pipeline.bundle.manifest import in_range
from pipeline.bundle.verify import verify_bundle
from pipeline.core.errors import Malformed
from pipeline.core.names import Format
from pipeline.seal.signing import seal_bundle


@pytest.mark.parametrize(
    ("version", "version_range", "inside"),
    [
        ("2.3.0", ">=2.3,<3", True),
        ("2.3", ">=2.3.0", False),  # told shorter than asked: refused rather than guessed
        ("2.10.1", ">=2.3,<3", True),
        ("3.0.0", ">=2.3,<3", False),
        ("3.0.0rc1", ">=2.3,<3", False),
        ("2.3.0.dev20260101", ">=2.3,<3", True),
        ("nonsense", ">=2.3", False),
    ],
)
def test_version_ranges(version: str, version_range: str, inside: bool) -> None:
    assert in_range(version, version_range) is inside


def change_manifest(**changes: object) -> Any:
    def change(files: dict[str, bytes]) -> None:
        manifest = json.loads(files["bundle.json"])
        for path, value in changes.items():
            *folders, name = path.split("__")
            target = manifest
            for folder in folders:
                target = target[folder]
            target[name] = value
        files["bundle.json"] = json.dumps(manifest).encode()

    return change


FAULTS = {
    "another schema": change_manifest(schema_version=2),
    "an unknown field": change_manifest(extra=1),
    "another io contract": change_manifest(io_contract_sha256="0" * 64),
    "a model file that is not there": change_manifest(entrypoint__path="model/other.tflite"),
    "a model file outside model/": change_manifest(entrypoint__path="LICENSE"),
    "an unknown engine": change_manifest(entrypoint__engine="torch"),
    "the other format's engine": change_manifest(entrypoint__engine="onnxruntime"),
    "a candidate of another format": change_manifest(candidate="dense.f32.onnx"),
    "no candidate name": change_manifest(candidate="best"),
    "an unreadable version range": change_manifest(runtime__version_range="~=2"),
    "no target": change_manifest(targets=[]),
    "a file too few": lambda files: files.pop("golden/outputs.npz"),
    "a manifest that is no JSON": lambda files: files.update({"bundle.json": b"{"}),
    "an io contract that is no JSON": lambda files: files.update({"io.json": b"{"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bundle_that_is_signed_but_makes_no_sense_is_malformed(pair: Sealed, policy, fault: str) -> None:
    files = dict(tiny_payload(Format.TFLITE))
    FAULTS[fault](files)
    seal_bundle(pair.backup, files, pair.key)
    with pytest.raises(Malformed):
        verify_bundle(pair.backup, policy, NOW)
