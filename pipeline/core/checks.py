"""How something that was looked at went, in a line each."""

from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """How a check went: a ``FAIL`` holds up what depends on it, a note does not."""

    PASS = "pass"  # noqa: S105 - a verdict
    NOTE = "note"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """One check and how it went."""

    what: str
    word: Word
    text: str
