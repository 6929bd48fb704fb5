"""Provenance: an in-toto statement that says what a bundle was made from, where and by whom.

Read as strictly as a drill's attestation and by the same reader; the key must be pinned for the use ``provenance``.
Nothing is loaded because of it: it answers where a bundle comes from, not whether it may run.
Source: https://slsa.dev/spec/v1.0/provenance
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pipeline.bundle.in_toto import open_statement, statement_bytes
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.statement import Subject
from pipeline.core.clock import from_text
from pipeline.core.errors import NotAccepted
from pipeline.core.names import MODEL_NAME, Role
from pipeline.core.schema import Rule

PROVENANCE_FILE = "provenance.json"
PROVENANCE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:hotspare:pack:v1"
LOCK = "dvc.lock"
GIT = "git"

_TIME = Rule("UTC, e.g. 2026-01-31T12:00:00Z.", pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_URI = Rule("A URI.", pattern=r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]{1,2000}")
_HEX = Rule(pattern="[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class Material:
    """One thing that went into a bundle: a file by its path in the project, or the commit of the project itself."""

    name: Annotated[str, Rule(pattern=r"[!-~ ]{1,500}")]
    digest: dict[Annotated[str, Rule(pattern="sha256|gitCommit")], Annotated[str, _HEX]]
    uri: Annotated[str | None, _URI] = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if len(self.digest) != 1:
            yield "digest: not exactly one"


@dataclass(frozen=True)
class Asked:
    """What the builder was asked for."""

    model: Annotated[str, Rule(pattern=MODEL_NAME)]
    role: Role


@dataclass(frozen=True)
class Chosen:
    """What the stages chose: the candidate inside; ``recipe_build_sha256`` digests what shapes candidates' bytes."""

    candidate: str
    recipe_build_sha256: Annotated[str, Rule(pattern="[0-9a-f]{64}")]


@dataclass(frozen=True)
class BuildDefinition:
    """How the bundle was made."""

    buildType: Literal["urn:hotspare:pack:v1"]  # noqa: N815 - the names in the format
    externalParameters: Asked  # noqa: N815
    internalParameters: Chosen  # noqa: N815
    resolvedDependencies: Annotated[tuple[Material, ...], Rule(min_items=1)]  # noqa: N815


@dataclass(frozen=True)
class Builder:
    """Who made it: the run's own word, which the signing key stands for."""

    id: Annotated[str, _URI]
    version: dict[str, str]


@dataclass(frozen=True)
class Metadata:
    """When, and in which run of the builder."""

    startedOn: Annotated[str, _TIME]  # noqa: N815
    finishedOn: Annotated[str, _TIME]  # noqa: N815
    invocationId: Annotated[str | None, _URI] = None  # noqa: N815


@dataclass(frozen=True)
class RunDetails:
    """The run that made it."""

    builder: Builder
    metadata: Metadata


@dataclass(frozen=True)
class ProvenancePredicate:
    """The SLSA v1 predicate, of it what we write."""

    buildDefinition: BuildDefinition  # noqa: N815
    runDetails: RunDetails  # noqa: N815

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        names = [material.name for material in self.buildDefinition.resolvedDependencies]
        if len(set(names)) != len(names):
            yield "resolvedDependencies: one stands twice"
        if LOCK not in names:
            yield f"resolvedDependencies: {LOCK} is missing, which pins what was measured"
        told = self.runDetails.metadata
        try:
            if from_text(told.finishedOn) < from_text(told.startedOn):
                yield "finishedOn: before startedOn"
        except ValueError as error:
            yield f"startedOn, finishedOn: {error}"


@dataclass(frozen=True)
class ProvenanceStatement:
    """The signed statement about one bundle."""

    subject: tuple[Subject]
    predicateType: Literal["https://slsa.dev/provenance/v1"]  # noqa: N815
    predicate: ProvenancePredicate

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.subject[0].name != f"{self.asked.model}-{self.asked.role}":
            yield "subject: not the bundle that was asked for"

    @property
    def bundle_id(self) -> str:
        """Return the bundle that this is about."""
        return self.subject[0].digest.sha256

    @property
    def asked(self) -> Asked:
        """Return the model and the role that the bundle was made for."""
        return self.predicate.buildDefinition.externalParameters

    @property
    def builder(self) -> str:
        """Return who made it."""
        return self.predicate.runDetails.builder.id

    @property
    def materials(self) -> dict[str, str]:
        """Return the digest of everything that went in, by name."""
        return {
            material.name: next(iter(material.digest.values()))
            for material in self.predicate.buildDefinition.resolvedDependencies
        }

    def to_bytes(self) -> bytes:
        """Return the one byte form of the statement."""
        return statement_bytes(self)


def verify_provenance(data: bytes, policy: TrustPolicy, what: str = PROVENANCE_FILE) -> ProvenanceStatement:
    """Return where a bundle comes from, once a key pinned for provenance is known to have signed it.

    Raises Malformed when a byte departs from the format, SignatureInvalid when no key pinned for provenance signed it,
    NotAccepted for a model that the policy does not name. Which bundle it is about is the caller's to judge.
    """
    statement = open_statement(
        ProvenanceStatement, data, policy.keys_for(KeyUse.PROVENANCE), what, "fetch it again from where it was released"
    )
    if statement.asked.model not in policy.models:
        raise NotAccepted(f"{what} is about {statement.asked.model}, which the trust policy does not name.")
    return statement
