"""``hotspare doctor``: what will stand in the way is told before it does, and what does not is no failure."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from sealed import tiny_channel, write_channel
from toy_project import make_project

from pipeline.cli import main
from pipeline.commands.node import doctor_installation
from pipeline.commands.node.doctor_installation import extra_finding, installation
from pipeline.commands.node.doctor_machine import Machine, machine_findings, read_machine
from pipeline.commands.node.doctor_project import project
from pipeline.core import layout
from pipeline.core.checks import Word
from pipeline.core.clock import to_text, utc_now
from pipeline.core.errors import Unfit
from pipeline.seal.keys import load_private_key

SOUND = Machine(True, 4, 8000.0, 1_048_576, False, True, 50_000.0, 1.0)


def words(found) -> dict[str, Word]:
    return {one.what: one.word for one in found}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("doctored") / "project"
    make_project(root, {"toy": 1})
    (root / "params.yaml").write_text(
        "models: [toy]\nvariants: {toy-dense: {model: toy, variant: dense}, toy-p50: {model: toy, variant: p50}}\n"
    )
    (root / ".dvc/tmp").mkdir(parents=True)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", str(made), str(tmp_path / "project")], check=True)
    return tmp_path / "project"


def test_a_sound_machine_passes_every_check() -> None:
    assert set(words(machine_findings(SOUND)).values()) == {Word.PASS}


@pytest.mark.parametrize(
    ("broken", "what", "word"),
    [
        ({"has_pidfds": False}, "kernel", Word.FAIL),
        ({"fsync_ms": None}, "writing", Word.FAIL),
        ({"processors": 1}, "processors", Word.NOTE),
        ({"memory_available_mb": 100.0}, "memory", Word.NOTE),
        ({"memory_available_mb": None}, "memory", Word.NOTE),
        ({"descriptors_max": 256}, "descriptors", Word.NOTE),
        ({"groups_by_session": True}, "priorities", Word.NOTE),
        ({"clock_is_kept": False}, "clock", Word.NOTE),
        ({"free_mb": 10.0}, "disk", Word.NOTE),
        ({"fsync_ms": 400.0}, "writing", Word.NOTE),
    ],
)
def test_what_a_machine_lacks_is_told_alone(broken: dict, what: str, word: Word) -> None:
    found = words(machine_findings(replace(SOUND, **broken)))
    assert {name: said for name, said in found.items() if said is not Word.PASS} == {what: word}


def test_what_a_kernel_does_not_tell_is_left_out() -> None:
    found = words(machine_findings(replace(SOUND, groups_by_session=None, clock_is_kept=None)))
    assert {"priorities", "clock"} & set(found) == set()


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    read = read_machine(tmp_path)
    assert read.has_pidfds
    assert read.processors >= 1
    assert read.memory_available_mb is not None
    assert read.memory_available_mb > 0
    assert read.fsync_ms is not None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_failure() -> None:
    assert words(machine_findings(read_machine(Path("/proc"))))["writing"] is Word.FAIL


@pytest.mark.slow
def test_the_installation_of_these_tests_is_whole() -> None:
    found = words(installation())
    assert found["base install"] is found["engine LiteRT"] is found["engine onnxruntime"] is Word.PASS
    assert found["extra serve"] is found["extra test"] is Word.PASS


def test_a_base_package_of_another_version_is_a_failure_and_one_of_an_extra_is_not(monkeypatch) -> None:
    told = ["numpy>=9999", "no-such-package>=1 ; extra == 'serve'", "pytest>=9999 ; extra == 'serve'"]
    monkeypatch.setattr(doctor_installation.metadata, "requires", lambda _: told)
    monkeypatch.setattr(doctor_installation, "_ENGINES", {})
    found = {one.what: one for one in installation()}
    assert found["base install"].word is Word.FAIL
    assert "asked for is >=9999" in found["base install"].text
    assert found["extra serve"].word is Word.NOTE
    assert "2 of 2 packages are missing or of another version" in found["extra serve"].text


def test_one_missing_package_of_an_extra_is_named() -> None:
    told = extra_finding("pkcs11", [Requirement("python-pkcs11")], ("python-pkcs11 is not installed",)).text
    assert told == "python-pkcs11 is not installed; where it is needed, `pip install 'hotspare[pkcs11]'`"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('GLIBC_9.9 not found')", "does not start: GLIBC_9.9 not found"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "was killed by signal 4: it said nothing"),
    ],
)
def test_an_engine_that_does_not_start_here_is_a_failure(tmp_path: Path, monkeypatch, code: str, said: str) -> None:
    (tmp_path / "broken_engine.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = doctor_installation._engine("broken", "broken_engine")
    assert (found.word, found.text) == (Word.FAIL, said)


def test_a_project_in_order_has_no_failure(root: Path) -> None:
    found = words(project(root, utc_now()))
    assert Word.FAIL not in found.values()
    assert found["recipe toy"] is found["params.yaml"] is found["dvc"] is found["trust policy"] is Word.PASS
    assert found["git"] is Word.NOTE


def test_a_commit_and_files_that_differ_from_it_are_told(root: Path) -> None:
    def git(*arguments: str) -> None:
        author = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
        subprocess.run(["git", *author, "-C", str(root), *arguments], check=True, capture_output=True)

    git("init", "-q")
    assert words(project(root, utc_now()))["git"] is Word.NOTE
    git("add", "params.yaml")
    git("commit", "-qm", "One")
    assert words(project(root, utc_now()))["git"] is Word.PASS
    (root / "params.yaml").open("a").write("# changed\n")
    assert words(project(root, utc_now()))["git"] is Word.NOTE


def _break_recipe(root: Path) -> None:
    (root / "recipes/models/toy.yaml").write_text("model: toy\nmetirc: auc\n")


def _forget_variant(root: Path) -> None:
    (root / "params.yaml").write_text("models: [toy]\nvariants: {toy-dense: {model: toy, variant: dense}}\n")


def _garble_params(root: Path) -> None:
    (root / "params.yaml").write_bytes(b"models: [\xff")


def _list_params(root: Path) -> None:
    (root / "params.yaml").write_text("- toy\n")


def _kill_dvc(root: Path) -> None:
    (root / ".dvc/tmp/rwlock").write_text('{"/a/b": {"wri')


def _kill_dvc_at_its_end(root: Path) -> None:
    (root / "dvc.lock").write_text("schema: '2.0'\nstages:\n  prune@toy:\n")


def _no_dvc(root: Path) -> None:
    (root / ".dvc").rename(root / ".dvcs")


def _another_model(root: Path) -> None:
    policy = root / layout.TRUST_POLICY
    policy.write_text(policy.read_text().replace('models: ["toy"]', 'models: ["other"]'))


def _break_policy(root: Path) -> None:
    (root / layout.TRUST_POLICY).write_text("schema_version: 1\n")


def _forge_channel(root: Path) -> None:
    folder = layout.channel_dir("toy", root / layout.ARTIFACTS)
    folder.mkdir(parents=True)
    (folder / "channel.sig").write_text("{}")


def _state_is_a_file(root: Path) -> None:
    (root / layout.ARTIFACTS / "state").write_text("")


@pytest.mark.parametrize(
    ("harm", "what", "said"),
    [
        (_break_recipe, "recipe toy", "metirc"),
        (_forget_variant, "params.yaml", "toy-p50"),
        (_garble_params, "params.yaml", "cannot be read"),
        (_list_params, "params.yaml", "hotspare init"),
        (_kill_dvc, ".dvc/tmp/rwlock", "remove it"),
        (_kill_dvc_at_its_end, "dvc.lock", "git checkout"),
        (_no_dvc, "dvc", "dvc init"),
        (_another_model, "trust policy", "toy"),
        (_break_policy, "trust policy", "keys"),
        (_forge_channel, "channel toy", "channel.sig"),
        (_state_is_a_file, "state_dir", "cannot be written"),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_do(root: Path, harm: Callable, what: str, said: str) -> None:
    harm(root)
    failed = {one.what: one.text for one in project(root, utc_now()) if one.word is Word.FAIL}
    assert set(failed) == {what}
    assert said in failed[what]


@pytest.mark.parametrize(
    ("renewed_in", "ends_in", "word"), [(1, 2, Word.PASS), (-1, 1, Word.NOTE), (-2, -1, Word.FAIL)]
)
def test_a_channel_that_is_due_is_a_note_and_one_that_ended_a_failure(
    root: Path, renewed_in: int, ends_in: int, word: Word
) -> None:
    now = utc_now()
    dates = {"issued_at": -9, "refresh_by": renewed_in, "not_after": ends_in}
    channel = tiny_channel(model="toy", **{name: to_text(now + timedelta(days=days)) for name, days in dates.items()})
    write_channel(layout.channel_dir("toy", root / layout.ARTIFACTS), channel, load_private_key(root / layout.KEYS))
    assert words(project(root, now))["channel toy"] is word


def test_the_command_tells_a_person_and_a_machine_and_its_exit_code_says_whether_all_is_well(
    root: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(doctor_installation, "_ENGINES", {})
    assert main(["doctor"]) == 0
    assert "pass  recipe toy" in capsys.readouterr().out
    _kill_dvc(root)
    assert main(["doctor", "--json"]) == Unfit.exit_code == 44
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"installation", "machine", "project"}
    assert [one["what"] for one in told["project"] if one["word"] == "FAIL"] == [".dvc/tmp/rwlock"]


def test_a_node_without_a_project_is_well(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor_installation, "_ENGINES", {})
    assert main(["doctor"]) == 0
    assert "note  recipes" in capsys.readouterr().out
