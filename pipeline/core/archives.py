"""Zip archives from outside: how much they may unpack to, and whether their bytes are those that were packed."""

import zipfile

RATIO_MAX = 100
ALWAYS_FINE_BYTES = 1 << 28


def require_modest(archive: zipfile.ZipFile, packed_bytes: int) -> None:
    """Raise ValueError for an archive that unpacks to over 256 MB and over 100 times the bytes that hold it.

    All members count, also ones that share their bytes. ``zipfile`` reads no member beyond the size it states.
    """
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > max(ALWAYS_FINE_BYTES, RATIO_MAX * packed_bytes):
        raise ValueError(f"it unpacks to {unpacked / 1e6:,.0f} MB, more than {RATIO_MAX} times its size")


def require_intact(archive: zipfile.ZipFile) -> None:
    """Raise ValueError for a member whose bytes are not those of its checksum; reads the whole archive."""
    damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the bytes of {damaged} do not fit its checksum")
