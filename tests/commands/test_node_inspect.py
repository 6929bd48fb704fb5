import json
import shutil
from pathlib import Path

import pytest
from sealed import Sealed, sealed

from pipeline.cli import main


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("template"))


def test_it_says_what_the_bundle_is_and_that_nothing_was_verified(template: Sealed, capsys) -> None:
    assert main(["inspect", str(template.backup)]) == 0
    told = capsys.readouterr().out
    assert told.count("Nothing was verified") == 2
    for words in ("tiny dense.f32", "features: float32 (n, 8)", "[0, 1], declared", "# A tiny model", "0.93"):
        assert words in told


def test_it_needs_no_signature_and_says_so_to_machines_too(template: Sealed, tmp_path: Path, capsys) -> None:
    shutil.copytree(template.backup / "payload", tmp_path / "payload")
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["verified"] is False
    assert told["manifest"]["model"] == "tiny"


def test_files_that_steer_a_terminal_are_spelled_out(template: Sealed, tmp_path: Path, capsys) -> None:
    shutil.copytree(template.backup / "payload", tmp_path / "payload")
    manifest = json.loads((tmp_path / "payload/bundle.json").read_bytes())
    steering = "\x1b[2J\x9b31m\u202e\rverified\ud800"
    (tmp_path / "payload/bundle.json").write_text(json.dumps({**manifest, "licence": steering + "\nverified"}))
    (tmp_path / "payload/scorecard.json").write_text(json.dumps({steering: steering}))
    (tmp_path / "payload/MODEL_CARD.md").write_text("A card.\n\x1b]0;title\x07\n")
    assert main(["inspect", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.replace("\n", "").isprintable()
    assert not any(line.startswith("verified") for line in told.splitlines())
    assert "A card.\n" in told


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [("bundle.json", b"[]", 32), ("io.json", b"{", 32), ("scorecard.json", b"[]", 32), ("MODEL_CARD.md", None, 30)],
)
def test_files_that_are_no_bundle_are_one_sentence(template, tmp_path: Path, capsys, name, content, code) -> None:
    shutil.copytree(template.backup / "payload", tmp_path / "payload")
    if content is None:
        (tmp_path / "payload" / name).unlink()
    else:
        (tmp_path / "payload" / name).write_bytes(content)
    assert main(["inspect", str(tmp_path)]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_folder_that_is_not_there_is_said(tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(tmp_path / "none")]) == 43
    assert "does not exist" in capsys.readouterr().err
