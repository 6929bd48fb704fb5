import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DataError
from pipeline.core.files import read_json, write_atomic
from pipeline.core.printable import printable, printable_lines


def test_a_link_laid_where_the_file_is_prepared_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".aside-answers.npz").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "answers.npz", b"answers")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "answers.npz").read_bytes() == b"answers"
    assert not (tmp_path / "answers.npz").is_symlink()


def test_what_a_killed_run_left_does_not_lend_its_rights(tmp_path: Path) -> None:
    (tmp_path / ".aside-secret").write_text("half")
    (tmp_path / ".aside-secret").chmod(0o666)
    write_atomic(tmp_path / "secret", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


@pytest.mark.parametrize("content", [b"\xff", b"{", b"9" * 5000, b"[" * 100_000])
def test_a_file_that_is_no_json_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DataError, match=r"record\.json is not JSON"):
        read_json(tmp_path / "record.json", DataError)


@given(st.text())
def test_whatever_is_shown_is_printable(text: str) -> None:
    spaces = str.maketrans("", "", "\u00a0\u202f")
    assert printable(text).translate(spaces).isprintable()
    assert printable_lines(text).translate(spaces).replace("\n", "").isprintable()
    assert printable_lines(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [("10\u202f000 – naïve", "10\u202f000 – naïve"), ("\x1b[2J", r"\x1b[2J"), ("a\rb\n", r"a\rb\n")],
)
def test_only_what_is_unprintable_is_spelled_out(text: str, shown: str) -> None:
    assert printable(text) == shown
