import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.policy import KeyUse, load_policy
from pipeline.bundle.public_key import key_hint
from pipeline.cli import main
from pipeline.core.environment import SIGNING_KEY
from pipeline.seal.keys import load_private_key, load_public_key, private_pem

NEW = ["keys", "new", "artifacts/keys", "--trust", "artifacts/trust.yaml"]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes/models").mkdir(parents=True)
    for name in ("credit", "tiny"):
        (tmp_path / f"recipes/models/{name}.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_leaves_a_key_and_a_policy_that_pins_it_for_the_projects_models(project: Path) -> None:
    assert main(NEW) == 0
    policy = load_policy(project / "artifacts/trust.yaml")
    hint = key_hint(load_private_key(environ={}).public_key())
    assert policy.models == ("credit", "tiny")
    assert policy.state_dir == project.resolve() / "artifacts/state"
    assert all(hint in policy.keys_for(use) for use in KeyUse)


def test_json_is_for_machines(capsys) -> None:
    assert main([*NEW, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hint"] == key_hint(load_public_key())


def test_a_second_time_it_refuses_and_changes_nothing(project: Path, capsys) -> None:
    main(NEW)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    assert main(NEW) == 13
    assert main(["keys", "new", "artifacts/keys"]) == 13
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("lost", ["artifacts/keys/signing.pub", "artifacts/trust.yaml", None])
def test_if_missing_mends_what_a_killed_run_left_out(project: Path, lost: str | None) -> None:
    main(NEW)
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    if lost:
        (project / lost).unlink()
    assert main([*NEW, "--if-missing"]) == 0
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_a_policy_that_pins_another_key_is_not_silently_kept(project: Path, capsys) -> None:
    main(NEW)
    for path in (project / "artifacts/keys").iterdir():
        path.unlink()
    assert main([*NEW, "--if-missing"]) == 13
    assert "does not pin" in capsys.readouterr().err


def test_a_key_in_the_environment_is_not_written_down(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    monkeypatch.setenv(SIGNING_KEY, private_pem(key).decode())
    assert main([*NEW, "--if-missing"]) == 0
    assert [path.name for path in (project / "artifacts/keys").iterdir()] == ["signing.pub"]
    assert key_hint(load_public_key()) == key_hint(key.public_key())


def test_outside_a_project_there_is_nothing_to_accept(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(NEW) == 2
    assert list(Path().iterdir()) == []


def test_a_second_key_is_pinned_beside_the_first_and_comments_stay(project: Path, capsys) -> None:
    main(NEW)
    before = Path("artifacts/trust.yaml").read_text()
    assert main(["keys", "new", "artifacts/keys-next"]) == 0
    assert main(["keys", "pin", "artifacts/keys-next", "--trust", "artifacts/trust.yaml"]) == 0
    policy = load_policy(project / "artifacts/trust.yaml")
    hints = {key_hint(load_public_key(Path(folder))) for folder in ("artifacts/keys", "artifacts/keys-next")}
    assert all(set(policy.keys_for(use)) == hints for use in KeyUse)
    after = Path("artifacts/trust.yaml").read_text()
    assert [line for line in before.splitlines() if line not in after.splitlines()] == []


@pytest.mark.parametrize(
    ("prepare", "code"),
    [
        (lambda policy: policy.write_text(policy.read_text().replace("\nkeys:\n", "\nkeys: # ours\n")), 13),
        (lambda policy: policy.write_text(policy.read_text().replace("  main:", "  next:")), 14),
        (lambda policy: policy.unlink(), 14),
    ],
)
def test_a_policy_that_a_key_cannot_be_added_to_stays_as_it_is(project: Path, prepare, code: int) -> None:
    main(NEW)
    main(["keys", "new", "artifacts/keys-next"])
    policy = Path("artifacts/trust.yaml")
    prepare(policy)
    before = policy.read_bytes() if policy.exists() else None
    assert main(["keys", "pin", "artifacts/keys-next", "--trust", str(policy)]) == code
    assert (policy.read_bytes() if policy.exists() else None) == before


def test_a_key_is_not_pinned_twice_nor_nowhere(capsys) -> None:
    main(NEW)
    assert main(["keys", "pin", "artifacts/keys", "--trust", "artifacts/trust.yaml"]) == 13
    assert main(["keys", "pin", "artifacts/keys"]) == 2
