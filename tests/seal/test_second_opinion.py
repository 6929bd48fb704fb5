"""The second verifier: what ours accepts, the library's own command accepts, and it refuses by itself."""

import shutil
from pathlib import Path

import pytest
from sealed import Sealed

from pipeline.core.errors import SignatureInvalid
from pipeline.seal.second_opinion import require_second_opinion

pytestmark = pytest.mark.slow  # each asks a process that imports the library


@pytest.fixture
def copy(template: Sealed, tmp_path: Path) -> Sealed:
    shutil.copytree(template.folder, tmp_path / "copy")
    return Sealed(tmp_path / "copy", template.key)


def test_it_accepts_what_we_seal_and_leaves_nothing_behind(
    template: Sealed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    require_second_opinion(template.backup, template.key.public_key())
    assert list(tmp_path.iterdir()) == []


def test_it_refuses_a_changed_file_in_one_sentence(copy: Sealed) -> None:
    (copy.backup / "payload/io.json").write_bytes(b"{}")
    with pytest.raises(SignatureInvalid, match="model-signing") as told:
        require_second_opinion(copy.backup, copy.key.public_key())
    assert "\n" not in str(told.value)


def test_it_refuses_a_file_that_git_would_ignore(copy: Sealed) -> None:
    (copy.backup / "payload/.gitignore").write_bytes(b"*")
    with pytest.raises(SignatureInvalid):
        require_second_opinion(copy.backup, copy.key.public_key())
