"""Drill attestations: an in-toto statement over both bundle ids that says which disasters a pair went through, and how.

Read as strictly as a channel and by the same verifier; the key must be pinned for the use ``drill``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

from pipeline.bundle.in_toto import open_statement, statement_bytes
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.statement import Digest, Subject
from pipeline.core.clock import from_text
from pipeline.core.errors import NotAccepted
from pipeline.core.names import DRILL_NAME, MODEL_NAME, Role
from pipeline.core.schema import Rule

ATTESTATION_FILE = "attestation.json"
PREDICATE_TYPE: Final = "urn:hotspare:drill:v1"

_SHA256 = Rule(pattern="[0-9a-f]{64}")
_TIME = Rule("UTC, e.g. 2026-01-31T12:00:00Z.", pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True)
class Drilled:
    """One drill: the script that was played and what the worst of its repeats came to."""

    name: Annotated[str, Rule(pattern=DRILL_NAME)]
    script_sha256: Annotated[str, _SHA256]
    repeats: Annotated[int, Rule(minimum=1)]
    passed: bool
    requests: Annotated[int, Rule("Of all repeats.", minimum=0)]
    lost: Annotated[int, Rule(minimum=0)]
    wrong: Annotated[int, Rule(minimum=0)]
    rto_ms: Annotated[float | None, Rule("Longest time to restore; none: not restored.", minimum=0)] = None
    misses: tuple[str, ...] = ()

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.passed and self.misses:
            yield "misses: a drill that passed missed nothing"


@dataclass(frozen=True)
class Predicate:
    """What was done, when, where and how it went; ``report_sha256`` is the digest of ``drill.json``."""

    model: Annotated[str, Rule(pattern=MODEL_NAME)]
    world: Literal["live", "simulated"]
    started_at: Annotated[str, _TIME]
    ended_at: Annotated[str, _TIME]
    passed: bool
    drills: Annotated[tuple[Drilled, ...], Rule(min_items=1)]
    report_sha256: Annotated[str, _SHA256]
    made_by: str
    machine: dict[str, str]
    rto_ms_p95: Annotated[
        float | None, Rule("Times to restore, over all faults and repeats; none: not restored.", minimum=0)
    ] = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.passed != all(drill.passed for drill in self.drills):
            yield "passed: not what follows from the drills"
        names = [drill.name for drill in self.drills]
        if len(set(names)) != len(names):
            yield "drills: one stands twice"
        try:
            if from_text(self.ended_at) < from_text(self.started_at):
                yield "ended_at: before started_at"
        except ValueError as error:
            yield f"started_at, ended_at: {error}"


@dataclass(frozen=True)
class DrillStatement:
    """The signed statement."""

    subject: tuple[Subject, Subject]
    predicateType: Literal["urn:hotspare:drill:v1"]  # noqa: N815 - the name in the format
    predicate: Predicate

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if [one.name for one in self.subject] != [f"{self.predicate.model}-{role}" for role in Role]:
            yield "subject: not the primary and the backup of the model, in this order"
        if self.subject[0].digest == self.subject[1].digest:
            yield "subject: primary and backup are one bundle"

    def bundle_id(self, role: Role) -> str:
        """Return the id of the bundle that stood for a role."""
        return self.subject[list(Role).index(role)].digest.sha256

    def is_of(self, bundle_ids: Mapping[Role, str]) -> bool:
        """Tell whether exactly these bundles were drilled, each in its role."""
        return all(self.bundle_id(role) == bundle_ids[role] for role in Role)

    @property
    def ended_at(self) -> datetime:
        """Return when the last drill ended."""
        return from_text(self.predicate.ended_at)

    def to_bytes(self) -> bytes:
        """Return the one byte form of the statement."""
        return statement_bytes(self)


def subjects(model: str, bundle_ids: dict[Role, str]) -> tuple[Subject, Subject]:
    """Return both bundles as a statement names them."""
    primary, backup = (Subject(f"{model}-{role}", Digest(bundle_ids[role])) for role in Role)
    return primary, backup


def verify_attestation(data: bytes, policy: TrustPolicy, what: str = ATTESTATION_FILE) -> DrillStatement:
    """Return what an attestation says, once a key pinned for drills is known to have signed it.

    Raises Malformed when a byte departs from the format, SignatureInvalid when no key pinned for drills signed it,
    NotAccepted for a model that the policy does not name. Its age and its pair are the caller's to judge.
    """
    statement = open_statement(DrillStatement, data, policy.keys_for(KeyUse.DRILL), what, "drill again")
    if statement.predicate.model not in policy.models:
        raise NotAccepted(f"{what} is about {statement.predicate.model}, which the trust policy does not name.")
    return statement
