"""Bearer tokens, kept as hashes.

A token is 32 random bytes, so its plain SHA-256 cannot be guessed back and needs no salt or slow hash (those are for
passwords, which people choose).
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pipeline.core.canonical import readable_json
from pipeline.core.errors import KeyFileError
from pipeline.core.files import locked, read_bytes, write_atomic
from pipeline.core.names import MODEL_NAME
from pipeline.core.schema import Rule, plain
from pipeline.core.strict_yaml import read_yaml

_RANDOM_BYTES = 32
_ADVICE = "make one with `hotspare token FILE --use admin --name NAME`"


class TokenUse(StrEnum):
    """What a token opens."""

    ADMIN = "admin"  # switch, hold, release, swap; and inference
    INFERENCE = "inference"


@dataclass(frozen=True)
class TokenEntry:
    """One token, as its hash."""

    name: Annotated[str, Rule("Whose token it is.", pattern=MODEL_NAME)]
    use: TokenUse
    sha256: Annotated[str, Rule("SHA-256 of the token, in hex.", pattern=r"[0-9a-f]{64}")]


@dataclass(frozen=True)
class Tokens:
    """The content of a token file (JSON or YAML); empty: no administration, and inference is open."""

    schema_version: Literal[1] = 1
    tokens: tuple[TokenEntry, ...] = ()

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across entries."""
        names = [entry.name for entry in self.tokens]
        yield from (
            f"tokens: the name {name} stands twice" for name in sorted({n for n in names if names.count(n) > 1})
        )

    def has(self, use: TokenUse) -> bool:
        """Tell whether any token is for a use."""
        return any(entry.use is use for entry in self.tokens)

    def admit(self, token: bytes, uses: frozenset[TokenUse]) -> bool:
        """Tell whether a token is one for any of the uses; every entry is compared, in constant time each."""
        digest = hashlib.sha256(token).hexdigest()
        admitted = False
        for entry in self.tokens:
            admitted |= hmac.compare_digest(entry.sha256, digest) & (entry.use in uses)
        return admitted


def new_token(name: str, use: TokenUse) -> tuple[str, TokenEntry]:
    """Make a random token; returns it, to be shown once, and the entry that is kept."""
    token = f"hotspare_{use}_{secrets.token_urlsafe(_RANDOM_BYTES)}"
    return token, TokenEntry(name, use, hashlib.sha256(token.encode()).hexdigest())


def load_tokens(path: Path) -> Tokens:
    """Read a token file; raises KeyFileError with every problem found."""
    return read_yaml(Tokens, read_bytes(path, KeyFileError, _ADVICE), str(path), KeyFileError)


def add_token(path: Path, name: str, use: TokenUse) -> str:
    """Make a token, add its hash to a file (made where missing, 0600) and return it; it can't be read back later.

    Raises KeyFileError when the file is unreadable or already has the name, or the name is none.
    """
    with locked(path.with_name(f".{path.name}.lock")):
        before = load_tokens(path) if path.exists() else Tokens()
        token, entry = new_token(name, use)
        if any(known.name == name for known in before.tokens):
            advice = "choose another name, or remove that entry first"
            raise KeyFileError(f"{path} already has a token named {name}; {advice}.")
        content = readable_json(plain(replace(before, tokens=(*before.tokens, entry))))
        read_yaml(Tokens, content, f"the token for {name!r}", KeyFileError)
        write_atomic(path, content, mode=0o600)
    return token
