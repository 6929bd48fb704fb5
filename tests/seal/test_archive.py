"""Archives: equal folders give equal bytes, and what is unpacked is what was packed."""

import os
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import FileAccess
from pipeline.seal.archive import read_archive, write_archive

FILES = {"bundle.sig": b"signed", "payload/model/model.tflite": bytes(range(256)) * 40, "payload/io.json": b"{}"}


def folder(place: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    return place


def tree(place: Path) -> dict[str, bytes]:
    return {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}


def test_times_modes_and_the_order_of_writing_leave_no_trace(tmp_path: Path) -> None:
    one = folder(tmp_path / "one" / "top")
    other = folder(tmp_path / "other" / "top", dict(reversed(FILES.items())))
    (other / "bundle.sig").chmod(0o600)
    os.utime(other / "bundle.sig", (1, 1))
    write_archive(one, tmp_path / "one.tar.zst")
    write_archive(other, tmp_path / "other.tar.zst")
    assert (tmp_path / "one.tar.zst").read_bytes() == (tmp_path / "other.tar.zst").read_bytes()


def test_the_members_are_sorted_and_bear_no_owner_time_or_mode_of_the_machine(tmp_path: Path) -> None:
    write_archive(folder(tmp_path / "top"), tmp_path / "a.tar.zst")
    plain = zstandard.ZstdDecompressor().stream_reader(BytesIO((tmp_path / "a.tar.zst").read_bytes())).read()
    with tarfile.open(fileobj=BytesIO(plain)) as archive:
        members = archive.getmembers()
    assert [one.name for one in members] == sorted(f"top/{name}" for name in FILES)
    assert {(one.mtime, one.uid, one.gid, one.uname, one.gname, one.mode) for one in members} == {
        (0, 0, 0, "", "", 0o644)
    }


_NAME = st.text("abc.-_XYZ019", min_size=1, max_size=60).filter(lambda name: name.strip(".") != "")


@given(st.dictionaries(_NAME, st.binary(max_size=2000), min_size=1, max_size=5))
def test_what_was_packed_is_unpacked(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    place = tmp_path_factory.mktemp("archive")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.seal.archive._LEVEL", 1)  # unpacks the same, and is set up in no time
        write_archive(folder(place / "top", files), place / "a.tar.zst")
    (place / "into").mkdir()
    assert tree(read_archive(place / "a.tar.zst", place / "into")) == files


def test_tar_and_zstd_of_the_system_unpack_it(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("needs the package zstd")
    write_archive(folder(tmp_path / "top"), tmp_path / "a.tar.zst")
    (tmp_path / "into").mkdir()
    subprocess.run(["tar", "--zstd", "-xf", "../a.tar.zst"], cwd=tmp_path / "into", check=True)
    assert tree(tmp_path / "into" / "top") == FILES


def test_a_link_is_not_packed(tmp_path: Path) -> None:
    place = folder(tmp_path / "top")
    (place / "payload/secret").symlink_to("/etc/passwd")
    with pytest.raises(FileAccess, match="link"):
        write_archive(place, tmp_path / "a.tar.zst")


def test_an_archive_is_never_written_over_another(tmp_path: Path) -> None:
    (tmp_path / "a.tar.zst").write_bytes(b"older")
    with pytest.raises(FileAccess):
        write_archive(folder(tmp_path / "top"), tmp_path / "a.tar.zst")
    assert (tmp_path / "a.tar.zst").read_bytes() == b"older"


@pytest.mark.parametrize("damage", ["cut", "turned", "two folders", "text"])
def test_a_damaged_archive_is_told_in_one_sentence(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "a.tar.zst"
    write_archive(folder(tmp_path / "top"), place)
    whole = place.read_bytes()
    (tmp_path / "into").mkdir()
    if damage == "two folders":
        (tmp_path / "into" / "other").mkdir()
    place.write_bytes(
        {"cut": whole[: len(whole) // 2], "turned": whole[:60] + bytes([whole[60] ^ 1]) + whole[61:], "text": b"x"}.get(
            damage, whole
        )
    )
    with pytest.raises(FileAccess, match="write it again"):
        read_archive(place, tmp_path / "into")
