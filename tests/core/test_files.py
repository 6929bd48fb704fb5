import errno
import fcntl
import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DataError, FileAccess
from pipeline.core.files import locked, read_json, replacing_dir, write_atomic
from pipeline.core.printable import printable, printable_lines


def test_a_link_laid_where_the_file_is_prepared_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".aside-answers.npz").symlink_to(tmp_path / "precious")
    write_atomic(tmp_path / "answers.npz", b"answers")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "answers.npz").read_bytes() == b"answers"
    assert not (tmp_path / "answers.npz").is_symlink()


def test_what_a_killed_run_left_does_not_lend_its_rights(tmp_path: Path) -> None:
    (tmp_path / ".aside-secret.0123abcd").write_text("half")
    (tmp_path / ".aside-secret.0123abcd").chmod(0o666)
    write_atomic(tmp_path / "secret", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["secret"]


def test_a_lock_that_a_link_leads_elsewhere_empties_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "lock").symlink_to(tmp_path / "kept")
    with locked(tmp_path / "lock"):
        assert (tmp_path / "kept").read_text() == "kept"


def test_a_file_system_without_locks_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.raises(FileAccess, match="lock"), locked(tmp_path / "lock"):
        raise AssertionError("held")


def test_runs_that_write_one_file_at_once_all_write_it_whole(tmp_path: Path) -> None:
    """Before, they shared the file aside: one removed the other's, which then failed, or published a part of this."""
    file, bodies = tmp_path / "floor.json", [bytes([writer]) * (1 << 20) for writer in range(4)]

    def write(body: bytes) -> None:
        for _ in range(25):
            write_atomic(file, body)

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write, args=(body,)) for body in bodies]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert not file.exists() or file.read_bytes() in bodies
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(bodies)
    assert [entry.name for entry in tmp_path.iterdir()] == ["floor.json"]


def test_only_what_nobody_writes_any_more_is_swept(tmp_path: Path) -> None:
    names = [".aside-a.0123abcd", ".aside-a.89abcdef", ".aside-ab.0123abcd", ".aside-a.txt"]
    for name in names:
        (tmp_path / name).write_text("half")
    with (tmp_path / names[1]).open() as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        write_atomic(tmp_path / "a", b"whole")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == sorted([*names[1:], "a"])


def test_a_folder_of_many_users_in_which_somebody_laid_a_file_is_written_all_the_same(tmp_path: Path) -> None:
    """Where a folder is sticky nobody removes what another laid there; here a folder stands for that."""
    (tmp_path / ".aside-answers.npz/in").mkdir(parents=True)
    write_atomic(tmp_path / "answers.npz", b"answers")
    assert (tmp_path / "answers.npz").read_bytes() == b"answers"


def test_what_a_killed_run_left_of_a_folder_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".aside-out/deep").mkdir(parents=True)
    (tmp_path / ".aside-out").chmod(0o777)
    (tmp_path / ".replaced-out").mkdir()
    with replacing_dir(tmp_path / "out") as aside:
        assert list(aside.iterdir()) == []
        assert stat.S_IMODE(aside.stat().st_mode) & 0o022 == 0
        (aside / "a").write_text("a")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_runs_that_write_one_folder_at_once_take_turns_and_each_writes_it_whole(tmp_path: Path) -> None:
    """Before, one swept what the other was writing, and what was exchanged could be a part of both."""
    out, writers, rounds = tmp_path / "out", 6, 40

    def write(writer: int) -> None:
        for number in range(rounds):
            with replacing_dir(out) as aside:
                for name in "abc":
                    (aside / name).write_text(f"{writer} {number}")

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write, args=(writer,)) for writer in range(writers)]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        try:
            folder = os.open(out, os.O_RDONLY)  # one of them, whatever is exchanged meanwhile
        except FileNotFoundError:
            continue
        found = {_read_in(folder, name) for name in "abc"}
        os.close(folder)
        assert len(found) == 1 or None in found, found  # None: it was replaced, and is being removed
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * writers
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]
    assert len({(out / name).read_text() for name in "abc"}) == 1


def _read_in(folder: int, name: str) -> str | None:
    try:
        file = os.open(name, os.O_RDONLY, dir_fd=folder)
    except FileNotFoundError:
        return None
    with os.fdopen(file) as stream:
        return stream.read()


def test_where_folders_cannot_be_exchanged_a_run_that_was_killed_between_two_renames_loses_nothing(
    tmp_path: Path, monkeypatch
) -> None:
    """The old folder lay aside, where the next run swept it before it had anything to put in its place."""
    monkeypatch.setattr("pipeline.core.files._exchange", lambda *_: False)
    out, replace = tmp_path / "out", Path.replace
    with replacing_dir(out) as aside:
        (aside / "a").write_text("old")

    def killed(path: Path, target: Path) -> None:
        replace(path, target)
        if path == out:
            os._exit(9)

    def write() -> None:
        monkeypatch.setattr(Path, "replace", killed)
        with replacing_dir(out) as aside:
            (aside / "a").write_text("new")

    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    process.join()
    assert (process.exitcode, out.exists()) == (9, False)
    with pytest.raises(ValueError, match="nothing new"), replacing_dir(out):
        raise ValueError("nothing new")
    assert (out / "a").read_text() == "old"
    with replacing_dir(out) as aside:
        (aside / "a").write_text("new")
    assert (out / "a").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_takes_the_place_of_a_link_again_and_again(tmp_path: Path) -> None:
    """The link was left aside, where it kept every later run from writing; what it leads to is somebody else's."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b").write_text("theirs")
    (tmp_path / "out").symlink_to("elsewhere")
    for text in ("new", "newer"):
        with replacing_dir(tmp_path / "out") as aside:
            (aside / "a").write_text(text)
    assert (tmp_path / "out/a").read_text() == "newer"
    assert (tmp_path / "elsewhere/b").read_text() == "theirs"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(FileAccess, match="out is a file; name a folder"), replacing_dir(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch) -> None:
    def refused(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    for text in ("old", "new"):
        with replacing_dir(tmp_path / "out") as aside:
            (aside / "a").write_text(text)
    assert (tmp_path / "out/a").read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


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
