"""Logging a build into a registry, idempotent by content: what is already there is found, not made again."""

from dataclasses import dataclass

from pipeline.core.names import Role
from pipeline.registry.description import describe_model
from pipeline.registry.record import (
    Build,
    Sealed,
    build_draft,
    candidate_drafts,
    candidate_key,
    drill_draft,
    version_draft,
    version_text,
)
from pipeline.registry.registered import LATEST_TAG, latest_text, standing_tags
from pipeline.registry.store import Registry, Version, version_of


@dataclass(frozen=True)
class Entry:
    """One bundle's version in the registry."""

    role: Role
    candidate: str
    bundle_id: str
    number: int
    made: bool


@dataclass(frozen=True)
class Registered:
    """What registering one build came to."""

    run_id: str
    run_made: bool
    entries: tuple[Entry, ...]


def log_build(registry: Registry, build: Build) -> tuple[str, bool]:
    """Log a build and its candidates; returns the build's run and whether anything had to be written.

    The build's run is finished last: one that a killed process left open is completed by the next call.
    """
    draft = build_draft(build)
    found = registry.find_run(build.model, draft.key)
    if found is not None and found.finished:
        return found.run_id, False
    run_id = registry.write_run(build.model, draft)
    for child in candidate_drafts(build, draft.key):
        registry.finish_run(registry.write_run(build.model, child, run_id))
    registry.finish_run(run_id)
    return run_id, True


def log_drill(registry: Registry, build: Build, build_run: str) -> str | None:
    """Log the drill of a build's own pair below the build's run; returns its run, or None where there is none."""
    drill = build.own_drill
    if drill is None:
        return None
    draft = drill_draft(build, drill)
    found = registry.find_run(build.model, draft.key)
    if found is not None and found.finished:
        return found.run_id
    run_id = registry.write_run(build.model, draft, build_run)
    registry.finish_run(run_id)
    return run_id


def register_build(registry: Registry, build: Build) -> Registered:
    """Log a build, and register a version for each of its two bundles that has none yet."""
    run_id, made = log_build(registry, build)
    page = describe_model(build.recipe, build.cards, build.selected, run_id, build.plots)
    registry.describe_model(build.model, page)
    known = registry.versions(build.model)
    entries = tuple(_enter(registry, build, sealed, run_id, known) for sealed in build.sealed)
    latest = latest_text(build.facts().pair)
    if registry.model_tags(build.model).get(LATEST_TAG) != latest:
        registry.tag_model(build.model, LATEST_TAG, latest)
    _tell_drill(registry, build, entries, log_drill(registry, build, run_id))
    _describe(registry, build)
    return Registered(run_id, made, entries)


def _tell_drill(registry: Registry, build: Build, entries: tuple[Entry, ...], run_id: str | None) -> None:
    """Tag both versions with the latest drill of exactly this pair; an older pair's drill leaves no mark."""
    if build.own_drill is None or run_id is None:
        return
    known = registry.versions(build.model)
    tags = {**build.own_drill.tags(), "drill_run_id": run_id}
    for entry in entries:
        version = version_of(known, entry.bundle_id)
        for key, value in tags.items():
            if version is not None and version.tags.get(key) != value:
                registry.tag_version(build.model, version.number, key, value)


def _describe(registry: Registry, build: Build) -> None:
    """Write on both versions' pages what their tags say by now."""
    known = registry.versions(build.model)
    for sealed in build.sealed:
        version = version_of(known, sealed.bundle_id)
        if version is not None:
            text = version_text(build, sealed, version.run_id, version.tags)
            if version.description != text:
                registry.describe_version(build.model, version.number, text)


def _candidate_run(registry: Registry, build: Build, sealed: Sealed) -> str:
    found = registry.find_run(build.model, candidate_key(build_draft(build).key, sealed.card.candidate))
    return found.run_id if found else ""


def _enter(registry: Registry, build: Build, sealed: Sealed, run_id: str, known: tuple[Version, ...]) -> Entry:
    found = version_of(known, sealed.bundle_id)
    version = found or registry.add_version(
        build.model, version_draft(build, sealed, run_id, _candidate_run(registry, build, sealed))
    )
    # What a version is paired with, and as what, is of the build that was registered last.
    due = {"selected_as": str(sealed.role), **standing_tags(build.facts(), sealed.role)}
    # Where it comes from is of the build that was registered first, filled in where that could not tell.
    due |= {key: value for key, value in build.lineage.tags().items() if key not in version.tags}
    for key, value in due.items():
        if version.tags.get(key) != value:
            registry.tag_version(build.model, version.number, key, value)
    return Entry(sealed.role, sealed.card.candidate, sealed.bundle_id, version.number, found is None)
