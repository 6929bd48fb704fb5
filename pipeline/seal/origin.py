"""Where a bundle comes from, from what the builder's environment and the project's files say; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.bundle.manifest import Manifest
from pipeline.bundle.provenance import (
    BUILD_TYPE,
    GIT,
    LOCK,
    PROVENANCE_TYPE,
    Asked,
    BuildDefinition,
    Builder,
    Chosen,
    Material,
    Metadata,
    ProvenancePredicate,
    ProvenanceStatement,
    RunDetails,
)
from pipeline.bundle.statement import Digest, Subject
from pipeline.core.clock import to_text
from pipeline.core.names import Role

LOCAL_BUILDER = "urn:hotspare:builder:local"


@dataclass(frozen=True)
class Run:
    """The builder's run that bundles were made in."""

    builder: Builder
    started_at: datetime
    finished_at: datetime
    invocation: str | None
    repository: str | None


@dataclass(frozen=True)
class Inputs:
    """What went in: the commit, if there is one, and the sha256 of files by their path in the project."""

    git_commit: str | None
    lock_sha256: str
    files: Mapping[str, str]


def run_of(environ: Mapping[str, str], versions: Mapping[str, str], started_at: datetime, finished_at: datetime) -> Run:
    """Return which run this is: GitHub Actions says it in its variables, all else is the local builder.

    Source: https://docs.github.com/en/actions/reference/workflows-and-actions/variables
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return Run(Builder(LOCAL_BUILDER, dict(versions)), started_at, finished_at, None, None)
    server, repository = environ["GITHUB_SERVER_URL"], environ["GITHUB_REPOSITORY"]
    attempt = f"{environ['GITHUB_RUN_ID']}/attempts/{environ['GITHUB_RUN_ATTEMPT']}"
    return Run(
        builder=Builder(f"{server}/{environ['GITHUB_WORKFLOW_REF']}", dict(versions)),
        started_at=started_at,
        finished_at=finished_at,
        invocation=f"{server}/{repository}/actions/runs/{attempt}",
        repository=f"git+{server}/{repository}@{environ['GITHUB_REF']}",
    )


def origin_of(manifest: Manifest, role: Role, bundle_id: str, inputs: Inputs, run: Run) -> ProvenanceStatement:
    """Return the statement about one bundle."""
    files = {LOCK: inputs.lock_sha256, **inputs.files}
    materials = [Material(name, {"sha256": digest}) for name, digest in files.items()]
    if inputs.git_commit is not None:
        materials.insert(0, Material(GIT, {"gitCommit": inputs.git_commit}, run.repository))
    chosen = Chosen(manifest.candidate, manifest.recipe.build_sha256)
    definition = BuildDefinition(BUILD_TYPE, Asked(manifest.model, role), chosen, tuple(materials))
    metadata = Metadata(to_text(run.started_at), to_text(run.finished_at), run.invocation)
    predicate = ProvenancePredicate(definition, RunDetails(run.builder, metadata))
    return ProvenanceStatement((Subject(f"{manifest.model}-{role}", Digest(bundle_id)),), PROVENANCE_TYPE, predicate)
