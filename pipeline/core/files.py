"""The file port's edge: written aside, fsynced and renamed; paths from files are checked before use."""

import errno
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from pipeline.core.errors import FileAccess, HotspareError, OutOfSpace

_ASIDE = ".aside-"
_REPLACED = ".replaced-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's complaints about ``path`` into OutOfSpace or FileAccess."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(f"No space is left to write {path}; free some and run the same command again.") from error
        place = error.filename or path
        raise FileAccess(f"{place}: {error.strerror or error}; check that the path exists and may be used.") from error


def read_bytes(path: Path, missing: type[HotspareError] = FileAccess, advice: str = "check the path") -> bytes:
    """Read a whole file; raises ``missing`` when it is not there, FileAccess when it cannot be read."""
    with disk_errors(path):
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise missing(f"{path} does not exist; {advice}.") from error


def read_json(path: Path, malformed: type[HotspareError], advice: str = "check the path") -> object:
    """Read a UTF-8 JSON file; raises ``malformed`` when it is missing or is not JSON."""
    data = read_bytes(path, malformed, advice)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise malformed(f"{path} is not JSON ({error}); {advice}.") from error


def write_atomic(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` so that a reader, or a crash, sees the old file or the new one and never a part.

    Who writes the same file at the same time has a file aside of its own: the last one wins, whole. Creates missing
    parent folders. Raises OutOfSpace or FileAccess and leaves no partial file.
    """
    if path.is_dir():
        raise FileAccess(f"{path} is a folder; name a file to write.")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep_asides(path)
        aside, descriptor = _new_aside(path, mode)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
                aside.replace(path)  # while it is held: until then nobody may sweep it
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        fsync_dir(path.parent)


def _new_aside(path: Path, mode: int) -> tuple[Path, int]:
    """Make a file that is this write's alone; returns it with the descriptor that holds it until it is closed.

    Never one that is there: it could be a link, another writer's, or be open to others where ``mode`` is not.
    """
    while True:
        aside = path.with_name(f"{_ASIDE}{path.name}.{os.urandom(4).hex()}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            is_there = os.fstat(descriptor).st_nlink > 0
        except BlockingIOError:  # it is being swept, before it was held
            is_there = False
        except OSError:  # a file system without locks: nobody sweeps there
            is_there = True
        if is_there:
            return aside, descriptor
        os.close(descriptor)
        aside.unlink(missing_ok=True)


def _sweep_asides(path: Path) -> None:
    """Remove what killed writers of this file left; who still writes it holds his."""
    name = re.compile(rf"{re.escape(_ASIDE + path.name)}\.[0-9a-f]{{8}}")
    for leftover in (path.with_name(one) for one in os.listdir(path.parent) if name.fullmatch(one)):  # noqa: PTH208
        with suppress(OSError):  # a link, a stranger's, somebody's who writes, or gone by now
            descriptor = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    leftover.unlink()
            finally:
                os.close(descriptor)


@contextmanager
def locked(lock: Path) -> Iterator[None]:
    """Hold a lock file, made where missing and left there; whoever holds it is waited for.

    Raises OutOfSpace or FileAccess when it cannot be opened, or the file system has no locks.
    """
    with disk_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT, 0o644)  # emptying nothing, wherever a link leads
    try:
        with disk_errors(lock):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def replacing_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder aside; when the block ends well it takes the place of ``path``, else it is removed.

    Who writes the same folder at the same time is waited for: the last one wins, whole. Leftovers of killed runs are
    swept first. Raises OutOfSpace or FileAccess.
    """
    if path.is_file():
        raise FileAccess(f"{path} is a file; name a folder to write.")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{_ASIDE}{path.name}")
        held = _make_alone(aside)
        try:
            _clear_replaced(path)
            yield aside
            fsync_tree(aside)
            _swap(aside, path)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        finally:
            os.close(held)


def _clear_replaced(path: Path) -> None:
    """Remove what a killed run had replaced, or put it back where the run had put nothing in its place yet."""
    replaced = path.with_name(f"{_REPLACED}{path.name}")
    if not replaced.exists():
        return
    if path.exists():
        shutil.rmtree(replaced)
    else:
        replaced.replace(path)


def _make_alone(folder: Path) -> int:
    """Make an empty folder that is this run's alone; returns the descriptor that holds it until it is closed."""
    while True:
        try:
            folder.mkdir()
            is_new = True
        except FileExistsError:
            is_new = False
        held = _held(folder)
        if held is not None and is_new:
            return held
        if held is not None:  # nobody writes there: a killed run left it
            shutil.rmtree(folder)
            os.close(held)


def _held(folder: Path) -> int | None:
    """Wait until nobody holds the folder, and hold it; None where it was exchanged or removed meanwhile."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        _hold(descriptor, fcntl.LOCK_EX)
        is_there = os.path.samestat(os.fstat(descriptor), folder.lstat())
    except FileNotFoundError:
        is_there = False
    except BaseException:
        os.close(descriptor)
        raise
    if not is_there:
        os.close(descriptor)
    return descriptor if is_there else None


def _hold(descriptor: int, how: int) -> None:
    with suppress(OSError):  # a file system without locks: two runs at once are then the user's to avoid
        fcntl.flock(descriptor, how)


def _swap(aside: Path, path: Path) -> None:
    replaced = path.with_name(f"{_REPLACED}{path.name}")
    if not path.exists():
        aside.replace(path)
        fsync_dir(path.parent)
        return
    old = os.open(path, os.O_RDONLY)
    try:
        # It will lie aside until it is removed, not as a leftover. Waited for: it lay there before, and somebody may
        # look just now whether it is one.
        _hold(old, fcntl.LOCK_EX)
        if _exchange(aside, path):
            replaced = aside
        else:
            path.replace(replaced)
            aside.replace(path)
        fsync_dir(path.parent)
        if replaced.is_symlink():
            replaced.unlink()
        else:
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        os.close(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step, so that a reader always finds a folder; False where the system cannot."""
    import ctypes  # not at the top: commands that only read do not pay for it

    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def fsync_dir(path: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(root: Path) -> None:
    """Make every file and folder below ``root`` durable."""
    for folder, _, names in os.walk(root):
        for name in names:
            with (Path(folder) / name).open("rb") as stream:
                os.fsync(stream.fileno())
        fsync_dir(Path(folder))


def is_safe_relative(text: str) -> bool:
    """Tell whether a path read from a file stays below its folder: relative, normalized, POSIX, no odd characters."""
    if not text or "\\" in text or "\0" in text or any(ord(char) < 32 for char in text):
        return False
    path = PurePosixPath(text)
    return not path.is_absolute() and ".." not in path.parts and "." not in path.parts and str(path) == text
