"""Attestations: an in-toto statement over bundle ids in a DSSE envelope; one reader for all kinds of them.

Source: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from typing import TypeVar

from pipeline.bundle.dsse import IN_TOTO, PinnedKeys, open_envelope
from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import Malformed
from pipeline.core.schema import plain

S = TypeVar("S")

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"


def statement_bytes(statement: object) -> bytes:
    """Return the one byte form of a statement."""
    return canonical_json({"_type": STATEMENT_TYPE, **plain(statement)})


def open_statement(cls: type[S], data: bytes, keys: PinnedKeys, what: str, advice: str) -> S:
    """Return what an attestation says, once one of ``keys`` is known to have signed it.

    Raises Malformed when a byte departs from the format, SignatureInvalid when none of ``keys`` signed it; ``advice``
    ends the sentence about a statement in another byte form.
    """
    signed = open_envelope(data, IN_TOTO, keys, what)
    inside = f"The statement in {what}"
    value = parse_strict(signed.payload, inside)
    if not isinstance(value, dict) or value.pop("_type", None) != STATEMENT_TYPE:
        raise Malformed(f"{inside} is not an in-toto v1 statement.")
    statement = fit(cls, value, inside)
    try:
        same = statement_bytes(statement) == signed.payload
    except ValueError:  # text with half a surrogate pair has no bytes
        same = False
    if not same:
        raise Malformed(f"{inside} is not in its one byte form; {advice}.")
    return statement
