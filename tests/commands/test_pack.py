import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sealed import NOW, RECIPE
from selected import selected_project

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.cli import main
from pipeline.core import layout
from pipeline.core.names import Role
from pipeline.core.records import CANDIDATES_FILE
from pipeline.score.selection import SELECTION_FILE


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project in which ``hotspare select tiny`` has just run: primary onnx, backup tflite."""
    monkeypatch.chdir(tmp_path)
    selected_project()
    return tmp_path


def verified(role: Role) -> VerifiedBundle:
    return verify_bundle(layout.bundle_dir("tiny", role), load_policy(layout.TRUST_POLICY), NOW)


def test_it_leaves_two_bundles_that_verify(capsys) -> None:
    capsys.readouterr()
    assert main(["pack", "tiny", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    for role, candidate in ((Role.PRIMARY, "dense.f32.onnx"), (Role.BACKUP, "dense.f32")):
        bundle = verified(role)
        assert bundle.candidate == candidate
        assert told[role]["bundle_id"] == bundle.bundle_id
        assert told[role]["size"] == bundle.size


def test_packing_twice_gives_the_same_payloads_and_ids() -> None:
    main(["pack", "tiny"])
    first = {role: verified(role) for role in Role}
    main(["pack", "tiny"])
    for role in Role:
        assert verified(role).files == first[role].files
        assert verified(role).bundle_id == first[role].bundle_id


FAULTS = {
    "no selection": (lambda: (layout.selection_dir("tiny") / SELECTION_FILE).unlink(), 15, "select tiny"),
    "no candidates": (lambda: (layout.candidates_dir("tiny") / CANDIDATES_FILE).unlink(), 15, "quantize tiny"),
    "no scorecard": (lambda: (layout.scorecards_dir("tiny") / "dense.f32.json").unlink(), 15, "score tiny"),
    "a changed model": (lambda: _append(layout.candidates_dir("tiny") / "dense.f32.tflite"), 15, "quantize tiny"),
    "no calibration rows": (lambda: Path(RECIPE.data.calibration).unlink(), 11, "calibration.npz"),
    "no key": (lambda: (layout.KEYS / "signing.pem").unlink(), 13, "hotspare keys new"),
    "a key that others can read": (lambda: (layout.KEYS / "signing.pem").chmod(0o644), 13, "chmod 600"),
}


def _append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"x")


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_missing_is_one_sentence_and_nothing_is_half_written(fault: str, capsys) -> None:
    spoil, code, said = FAULTS[fault]
    spoil()
    capsys.readouterr()
    assert main(["pack", "tiny"]) == code
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not Path("artifacts/bundles").exists()


@pytest.fixture
def small_disk(project: Path) -> Iterator[Path]:
    """A file system under the bundles that holds one of the two at most."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = project / "artifacts/bundles"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(place)]
    if subprocess.run(command, check=False).returncode:
        pytest.skip("this machine does not let tests mount a tmpfs")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_sentence_and_the_next_run_is_fine(small_disk: Path, capsys) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(16 * 1024))
    assert main(["pack", "tiny"]) == 41
    told = capsys.readouterr().err
    assert "No space is left" in told
    assert told.count("\n") == 1
    assert {path.name for path in small_disk.iterdir()} <= {"filler", "tiny-primary"}
    filler.unlink()
    for path in small_disk.iterdir():
        shutil.rmtree(path)
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    assert main(["pack", "tiny"]) == 0
    assert {path.name for path in small_disk.iterdir()} == {"tiny-primary", "tiny-backup"}
