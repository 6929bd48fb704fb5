"""docs/delivery.md says what is true: what it tells readers to type works, and its figures are those of the code."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sealed import sealed

from pipeline.cli import main
from pipeline.core import layout
from pipeline.core.names import Role
from pipeline.delivery import chunking
from pipeline.delivery.contents import CONTENTS_BYTES_MAX
from pipeline.delivery.transports import web

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/delivery.md"
TEXT = PAGE.read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_figures_are_those_of_the_code() -> None:
    assert CONTENTS_BYTES_MAX == 4 << 20 and "at most 4 MiB" in TEXT
    assert (chunking.AVERAGE_BITS_MIN, chunking.AVERAGE_BITS_MAX) == (12, 20) and "4 KiB at least and 1 MiB" in TEXT
    assert chunking.average_bits(4096 * 4096) == chunking.average_bits(4096 * 8192 - 1) == 13
    assert web._SILENCE_S == 20 and "20 s of silence" in TEXT
    assert web._BYTES_PER_S_MIN == 8192 and "8 kB/s" in TEXT


def test_every_link_leads_somewhere() -> None:
    places = [target for target in re.findall(r"\]\(([^)\s]+)\)", TEXT) if "://" not in target]
    assert [place for place in places if not (PAGE.parent / place.partition("#")[0]).exists()] == []


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose promoted model is called tiny, as the working folder."""
    made = sealed(tmp_path / "made")
    root = tmp_path / "served"
    for role, bundle in ((Role.PRIMARY, made.primary), (Role.BACKUP, made.backup)):
        shutil.copytree(bundle, root / layout.bundle_dir("tiny", role))
    shutil.copytree(made.channel, root / "artifacts/channels/tiny")
    shutil.copytree(made.folder / "keys", root / layout.KEYS)
    shutil.copyfile(made.trust, root / layout.TRUST_POLICY)
    monkeypatch.chdir(root)
    return root


@pytest.mark.slow
def test_publishing_and_staging_work_as_shown(
    served: tuple[Path, str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (publishing,), (staging,) = _blocks("python"), _blocks("sh")
    done = subprocess.run(
        [sys.executable, "-c", publishing.replace("credit", "tiny")], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"[\d,]+ of [\d,]+ bytes were new\n", done.stdout)
    told = []
    for command in (
        staging.replace("credit", "tiny").replace("http://localhost:8000", f"{served[1]}/depot").splitlines()
    ):
        program, *words = shlex.split(command)
        assert program == "hotspare"
        assert main(words) == 0, command
        told.append(capsys.readouterr().out)
    first, second, verified = told
    assert "; new\n" in first
    assert "; in place already\n" in second
    assert "primary of its channel" in verified
    assert all(line in first for line in ("--primary staged/tiny/primary", "--standby staged/tiny/backup"))
