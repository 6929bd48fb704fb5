"""``hotspare release``: the same bundles twice, nothing that was not measured, all or nothing on disk."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from attested import attest
from sealed import tiny_payload
from selected import selected_project

from pipeline.bundle.policy import KeyUse, load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.cli import main
from pipeline.commands.build import pack, release, release_folder, release_pair
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.environment import SIGNING_KEY
from pipeline.core.errors import PromotionRefused
from pipeline.core.names import Role
from pipeline.seal.keys import load_private_key
from pipeline.seal.payload import build_payload


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which ``pack`` has run, with a lock that pins nothing yet."""
    before, place = Path.cwd(), tmp_path_factory.mktemp("project")
    os.chdir(place)
    try:
        selected_project()
        assert main(["pack", "tiny"]) == 0
        Path("dvc.lock").write_text("schema: '2.0'\n")
    finally:
        os.chdir(before)
    return place


@pytest.fixture
def project(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it; whether dvc finds it current, and what the library's verifier says, is asked in other tests.

    Payloads are built once for all tests but those about packing.
    """
    shutil.copytree(packed, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setattr(pack, "build_payload", lambda given: tiny_payload(given.record.format))
    monkeypatch.setattr(release, "stale_stages", lambda models: dict.fromkeys(models, ()))
    for room in (release_pair, release_folder):
        monkeypatch.setattr(room, "require_second_opinion", lambda *_: None)
    return tmp_path / "project"


def released(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert main(["release", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def ids(told: dict) -> dict[str, str]:
    return {one["role"]: one["bundle_id"] for one in told["archives"]}


def packed_ids() -> dict[str, str]:
    trust = load_policy(layout.TRUST_POLICY)
    return {role: verify_bundle(layout.bundle_dir("tiny", role), trust, utc_now()).bundle_id for role in Role}


def words(told: dict) -> dict[str, str]:
    return {one["what"]: one["word"] for one in told["findings"]}


@pytest.mark.slow
def test_a_rehearsal_gives_the_packed_ids_every_time_and_keeps_nothing(project: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(pack, "build_payload", build_payload)
    before = sorted(project.rglob("*"))
    first, second = released(capsys, "--dry-run"), released(capsys, "--dry-run")
    assert ids(first) == ids(second) == packed_ids()
    assert sorted(project.rglob("*")) == before
    assert words(first)["primary packed twice"] == words(first)["backup as packed before"] == "pass"


@pytest.mark.slow
def test_a_rehearsal_without_a_key_signs_with_one_that_is_forgotten_and_says_so(project: Path, capsys) -> None:
    expected = packed_ids()
    shutil.rmtree(layout.KEYS)
    layout.TRUST_POLICY.unlink()
    told = released(capsys, "--dry-run", "--to", "out")
    assert told["ephemeral_key"] is True
    assert ids(told) == expected
    assert "This is a rehearsal, not a release" in Path("out/RELEASE.md").read_text()
    assert [
        path for path in project.rglob("*") if b"PRIVATE KEY" in (path.read_bytes() if path.is_file() else b"")
    ] == []
    assert main(["release", "--dry-run"]) == 0
    assert "No key is configured" in capsys.readouterr().out


def test_what_is_no_rehearsal_wants_a_configured_key_and_a_folder(project: Path, capsys) -> None:
    assert main(["release"]) == 2
    assert main(["release", "--to", "artifacts"]) == 2
    assert "holds other things than a release" in capsys.readouterr().err
    assert main(["release", "unknown", "--dry-run"]) == 10
    (layout.KEYS / "signing.pem").unlink()
    assert main(["release", "--to", "out"]) == 13
    assert not Path("out").exists()


def test_the_folder_holds_archives_their_provenance_the_lock_a_note_and_sums_of_all(project: Path, capsys) -> None:
    told = released(capsys, "--to", "out", "--no-promote")
    stems = {role: f"tiny-{role}-{bundle_id[:12]}" for role, bundle_id in ids(told).items()}
    assert {path.name for path in Path("out").iterdir()} == {
        *("RELEASE.md", "SHA256SUMS", "dvc.lock"),
        *(f"{stem}.tar.zst" for stem in stems.values()),
        *(f"{stem}.provenance.json" for stem in stems.values()),
    }
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd="out", check=True)
    for one in told["archives"]:
        data = (Path("out") / one["file"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (one["bytes"], one["sha256"])
    assert not layout.channel_dir("tiny").exists()


@pytest.mark.slow
def test_whoever_downloads_an_archive_unpacks_it_with_tar_and_verifies_it(project: Path, capsys) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("needs the package zstd")
    (one, _) = released(capsys, "--to", "out", "--no-promote")["archives"]
    subprocess.run(["tar", "--zstd", "-xf", one["file"]], cwd="out", check=True)
    place = Path("out") / one["file"].removesuffix(".tar.zst")
    origin = place / "attestations/provenance.json"
    assert main(["verify", str(place), "--trust", str(layout.TRUST_POLICY), "--provenance", str(origin), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundle_id"] == one["bundle_id"]
    lock = hashlib.sha256(Path("dvc.lock").read_bytes()).hexdigest()
    recipe = hashlib.sha256(Path("recipes/models/tiny.yaml").read_bytes()).hexdigest()
    calibration = hashlib.sha256(Path("calibration.npz").read_bytes()).hexdigest()
    materials = told["provenance"]["materials"]
    assert (materials["dvc.lock"], materials["recipes/models/tiny.yaml"]) == (lock, recipe)
    assert materials["calibration.npz"] == calibration


def drill(**changes: object) -> None:
    place = layout.drill_dir("tiny") / "attestation.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    found = {Role(role): bundle_id for role, bundle_id in packed_ids().items()}
    place.write_bytes(
        attest("tiny", found | changes.pop("ids", {}), load_private_key(), layout.TRUST_POLICY, **changes)
    )


@pytest.mark.slow
def test_the_drill_of_exactly_this_pair_travels_with_it(project: Path, capsys) -> None:
    drill()
    told = released(capsys, "--to", "out", "--no-promote")
    assert words(told)["drill"] == "pass"
    assert "0 lost and 0 wrong of 300 requests, restored within 31.5 ms" in Path("out/RELEASE.md").read_text()
    (one, _) = told["archives"]
    listed = subprocess.run(["tar", "--zstd", "-tf", f"out/{one['file']}"], capture_output=True, text=True, check=True)
    assert f"{one['file'].removesuffix('.tar.zst')}/attestations/drill.json" in listed.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("flaw", ["missing", "of another pair", "not signed by a pinned key"])
def test_another_drill_is_noted_and_left_out(project: Path, capsys, flaw: str) -> None:
    if flaw != "missing":
        drill(ids={Role.BACKUP: "dd" * 32} if flaw == "of another pair" else {})
    if flaw == "not signed by a pinned key":
        narrow = layout.TRUST_POLICY.read_text().replace(f", {KeyUse.DRILL}", "")
        layout.TRUST_POLICY.write_text(narrow)
    told = released(capsys, "--to", "out", "--no-promote")
    assert words(told)["drill"] == "note"
    assert "No drill of this pair is attested." in Path("out/RELEASE.md").read_text()


def test_a_payload_that_comes_out_differently_is_not_released(project: Path, capsys, monkeypatch) -> None:
    count = iter(range(100))
    monkeypatch.setattr(
        pack, "build_payload", lambda given: {**tiny_payload(given.record.format), "moment.txt": b"%d" % next(count)}
    )
    shutil.rmtree("artifacts/bundles")
    assert main(["release", "--to", "out", "--no-promote"]) == 25
    assert "moment.txt came out differently" in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_pair_that_differs_from_what_was_packed_is_not_released(project: Path, capsys) -> None:
    (layout.bundle_dir("tiny", Role.BACKUP) / "payload/MODEL_CARD.md").write_text("another")
    assert main(["release", "--dry-run"]) == 25
    assert "payload/MODEL_CARD.md differs" in capsys.readouterr().err


@pytest.mark.slow
def test_what_the_lock_does_not_pin_is_not_released_and_the_last_release_stays(
    project: Path, capsys, monkeypatch
) -> None:
    released(capsys, "--to", "out", "--no-promote")
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    monkeypatch.setattr(release, "_run", lambda *_: pytest.fail("nothing else runs"))
    monkeypatch.setattr(release, "stale_stages", lambda _: {"tiny": ("score@tiny: x is modified",)})
    assert main(["release", "--to", "out", "--drill"]) == 25
    assert "score@tiny: x is modified" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert [path for path in project.iterdir() if path.name.startswith(".aside")] == []


@pytest.mark.slow
def test_what_is_not_committed_holds_a_release_up_and_is_noted_in_a_rehearsal(
    project: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(release, "uncommitted", lambda: ("recipes/models/tiny.yaml",))
    assert words(released(capsys, "--dry-run"))["commit"] == "note"
    assert main(["release", "--to", "out", "--no-promote"]) == 25
    assert "recipes/models/tiny.yaml differ from the commit" in capsys.readouterr().err


def test_a_key_that_may_not_tell_provenance_is_refused_before_anything_is_packed(
    project: Path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(release, "ready_pair", None)
    layout.TRUST_POLICY.write_text(layout.TRUST_POLICY.read_text().replace(f", {KeyUse.PROVENANCE}", ""))
    assert main(["release", "--to", "out"]) == 13
    assert "add `provenance` to the uses" in capsys.readouterr().err


@pytest.mark.slow
def test_a_secret_key_in_the_environment_is_enough_and_touches_no_disk(project: Path, capsys, monkeypatch) -> None:
    secret = (layout.KEYS / "signing.pem").read_text()
    (layout.KEYS / "signing.pem").unlink()
    monkeypatch.setenv(SIGNING_KEY, secret)
    released(capsys, "--to", "out", "--no-promote")
    body = secret.splitlines()[1].encode()
    assert not any(body in path.read_bytes() for path in project.rglob("*") if path.is_file())


def test_archives_are_whole_before_anything_is_promoted(project: Path, capsys, monkeypatch) -> None:
    ran = []

    def look(command, *arguments: str) -> None:
        archives = sorted(path.name.split(".", 1)[1] for path in Path(".aside-out").glob("*.tar.zst"))
        ran.append((command.__name__.rsplit(".", 1)[1], arguments, archives, Path("out").exists()))

    monkeypatch.setattr(release, "_run", look)
    released(capsys, "--to", "out")
    both = ["tar.zst", "tar.zst"]
    assert ran == [("register", ("tiny",), both, False), ("promote", ("tiny",), both, False)]
    assert Path("out/SHA256SUMS").is_file()


def test_what_the_gates_refuse_leaves_no_folder(project: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PromotionRefused("tiny is not promoted.", ["drill: none"])

    monkeypatch.setattr(release, "_run", refuse)
    assert main(["release", "--to", "out"]) == 21
    assert [path.name for path in project.iterdir() if "out" in path.name] == []


@pytest.mark.slow
@pytest.mark.parametrize("is_drilled", [True, False])
def test_asked_to_it_drills_only_a_pair_that_no_drill_is_attested_of(
    project: Path, capsys, monkeypatch, is_drilled: bool
) -> None:
    ran = []
    monkeypatch.setattr(release, "_run", lambda *given: (ran.append(given[1:]), drill()))
    if is_drilled:
        drill()
    told = released(capsys, "--dry-run", "--drill")
    assert ran == ([] if is_drilled else [("tiny",)])
    assert words(told)["drill"] == "pass"


def test_inside_an_experiment_nothing_is_released(project: Path, monkeypatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "tryout")
    assert main(["release", "--to", "out"]) == 2


DVC = """\
stages:
  pack:
    foreach: [tiny]
    do:
      cmd: hotspare pack ${item}
      deps:
        - artifacts/candidates/tiny
        - artifacts/keys/signing.pub
        - artifacts/scorecards/tiny
        - artifacts/selections/tiny
      outs: [artifacts/bundles/tiny-primary, artifacts/bundles/tiny-backup]
"""


@pytest.mark.slow
def test_dvc_is_asked_whether_the_measurements_are_what_the_lock_pins(
    packed: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    shutil.copytree(packed, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    Path("dvc.lock").unlink()
    assert main(["release", "--dry-run"]) == 15
    Path("dvc.yaml").write_text(DVC)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], check=True)
    subprocess.run([*dvc, "commit", "--force", "--quiet", "pack@tiny"], check=True)
    assert release.stale_stages(["tiny"]) == {"tiny": ()}
    with (layout.candidates_dir("tiny") / "dense.f32.tflite").open("ab") as stream:
        stream.write(b"x")
    assert release.stale_stages(["tiny"]) == {"tiny": ("pack@tiny: artifacts/candidates/tiny is modified",)}
