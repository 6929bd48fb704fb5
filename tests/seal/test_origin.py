"""Where bundles come from: what the builder's variables say, and nothing that they do not."""

from datetime import UTC, datetime

import pytest
from sealed import reference, tiny_payload

from pipeline.bundle.manifest import MANIFEST_FILE, Manifest
from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.names import Format, Role
from pipeline.seal.origin import LOCAL_BUILDER, Inputs, origin_of, run_of

BEGAN, ENDED = datetime(2026, 6, 1, 12, 0, tzinfo=UTC), datetime(2026, 6, 1, 12, 5, tzinfo=UTC)
ACTIONS = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "team/models",
    "GITHUB_WORKFLOW_REF": "team/models/.github/workflows/release.yml@refs/tags/v1.2.0",
    "GITHUB_RUN_ID": "77",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_REF": "refs/tags/v1.2.0",
    "HOTSPARE_SIGNING_KEY": "secret",
}


def told(environ: dict[str, str], commit: str | None = "ab" * 20):
    manifest = fit(Manifest, parse_strict(tiny_payload(Format.TFLITE)[MANIFEST_FILE], "manifest"), "manifest")
    bundle_id = reference(Format.TFLITE).bundle_id
    inputs = Inputs(commit, "cd" * 32, {"recipes/models/tiny.yaml": "ef" * 32})
    run = run_of(environ, {"hotspare": "1"}, BEGAN, ENDED)
    return origin_of(manifest, Role.BACKUP, bundle_id, inputs, run)


def test_a_run_of_github_actions_names_its_workflow_run_and_repository() -> None:
    run = told(ACTIONS).predicate.runDetails
    assert run.builder.id == "https://github.com/team/models/.github/workflows/release.yml@refs/tags/v1.2.0"
    assert run.metadata.invocationId == "https://github.com/team/models/actions/runs/77/attempts/2"
    commit = told(ACTIONS).predicate.buildDefinition.resolvedDependencies[0]
    assert commit.uri == "git+https://github.com/team/models@refs/tags/v1.2.0"


def test_any_other_run_is_the_local_builder() -> None:
    assert told({}).builder == LOCAL_BUILDER
    assert told({**ACTIONS, "GITHUB_ACTIONS": "false"}).predicate.runDetails.metadata.invocationId is None


def test_without_a_commit_none_is_named() -> None:
    assert told({}, commit=None).materials == {"dvc.lock": "cd" * 32, "recipes/models/tiny.yaml": "ef" * 32}


@pytest.mark.parametrize("environ", [{}, ACTIONS])
def test_it_tells_nothing_of_the_environment_beside(environ: dict[str, str]) -> None:
    assert b"secret" not in told(environ).to_bytes()
