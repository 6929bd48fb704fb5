"""``hotspare learn``: everything that is wrong with a member's settings is said at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from learned import TIP, learning_base
from sealed import NOW

from pipeline.bundle.learning import read_learning
from pipeline.bundle.served import verify_served
from pipeline.cli import main
from pipeline.online.checkpoints import checkpoint_payload, seal_checkpoint
from pipeline.online.learner import read_head


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, list[str]]]:
    """Run the command with settings; return its exit code and the lines that it said."""

    def tell(**changes: object) -> tuple[int, list[str]]:
        settings = {"seat": 0, "folder": "a", "other": "b", "base": "base", "trust": "trust.yaml", "keys": "keys"}
        Path("a.json").write_text(json.dumps({**settings, **changes}))
        code = main(["learn", "a.json"])
        said = capsys.readouterr()
        assert said.out == ""
        return code, said.err.removeprefix("hotspare learn: ").splitlines()

    return tell


def test_what_is_no_setting_is_said_all_at_once(told) -> None:
    code, lines = told(seat=2, folder=7, window=0, lease_s="long", speed=1)
    assert code == 2
    assert sorted(line.split(": ")[1] for line in lines) == ["folder", "lease_s", "seat", "speed", "window"]
    assert all(line.startswith("a.json: ") and line.endswith(".") for line in lines)


def test_what_does_not_fit_together_and_what_is_not_there_is_said_all_at_once(told) -> None:
    _, lines = told(folder="x" * 120, other="x" * 120, lease_s=2.0)
    assert [line.split(": ")[1] for line in lines] == ["promise_s", "other", "folder", "other", "base", "trust", "keys"]
    assert "too long a path" in lines[2]
    assert all(line.startswith("a.json: ") and line.endswith(".") for line in lines)


def test_a_file_that_is_none_is_said(capsys) -> None:
    assert main(["learn", "nothing.json"]) == 2
    assert "nothing.json does not exist" in capsys.readouterr().err
    Path("torn.json").write_text('{"seat": ')
    assert main(["learn", "torn.json"]) == 2
    assert "torn.json is not JSON" in capsys.readouterr().err


def test_a_key_that_may_not_seal_updates_is_refused(told, here: Path) -> None:
    learning_base(here)
    code, (line,) = told()
    assert code == 13
    assert line == "trust.yaml does not pin the key in keys for updates of tiny."


def test_the_schema_is_for_editors(capsys) -> None:
    assert main(["learn", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"seat", "folder", "window"} <= schema["properties"].keys()


def test_a_members_checkpoint_is_published_for_a_server(here: Path, told, capsys) -> None:
    learning = learning_base(here)
    (here / "keys").rename(here / "bundle-keys")
    (here / "update-keys").rename(here / "keys")
    base = learning.base()
    payload = checkpoint_payload(base, read_head(base.model_file, read_learning(base.files)), TIP)
    seal_checkpoint(here / "a" / "checkpoint", payload, learning.update_key)
    settings = {"seat": 0, "folder": "a", "other": "b", "base": "base", "trust": "trust.yaml", "keys": "keys"}
    Path("a.json").write_text(json.dumps(settings))
    assert main(["learn", "a.json", "--publish", "live", "--json"]) == 0
    published = json.loads(capsys.readouterr().out)
    assert published["updates"] == TIP.seq
    assert verify_served(here / "live", learning.policy(), NOW).bundle_id == published["bundle_id"]
    assert main(["learn", "a.json", "--publish", "live"]) == 0
    assert "hotspare swap tiny" in capsys.readouterr().out
    assert main(["learn", "--schema", "--publish", "live"]) == 2
