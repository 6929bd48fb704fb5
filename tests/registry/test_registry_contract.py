"""One contract for every registry: in memory, MLflow on SQLite, MLflow behind a server."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.bundle.channel import BundleRef
from pipeline.core.errors import MissingStageError
from pipeline.core.names import Role
from pipeline.registry.record import Build, build_draft, version_draft
from pipeline.registry.registered import Vouched, facts_of, is_registered_pair, latest_pair, pair_of
from pipeline.registry.registering import log_build, register_build
from pipeline.registry.store import Registry, version_of


def _vouched(build: Build) -> dict[Role, Vouched]:
    """Return what the bundles of a build say of themselves."""
    return {
        one.role: Vouched(
            BundleRef(one.bundle_id, one.size_bytes),
            one.card.name,
            one.io_contract_sha256,
            one.card.task.loss_high,
            one.key_hint,
        )
        for one in build.sealed
    }


def test_what_was_never_registered_is_absent(registry: Registry, build: Build) -> None:
    model = build.model
    assert registry.find_run(model, "a" * 64) is None
    assert (registry.versions(model), registry.aliases(model), registry.model_tags(model)) == ((), {}, {})


def test_registering_the_same_build_again_makes_nothing(registry: Registry, build: Build) -> None:
    first = register_build(registry, build)
    assert first.run_made
    assert [entry.made for entry in first.entries] == [True, True]
    again = register_build(registry, build)
    assert not again.run_made
    assert again.run_id == first.run_id
    assert [(entry.number, entry.made) for entry in again.entries] == [(e.number, False) for e in first.entries]
    assert len(registry.versions(build.model)) == 2


def test_a_version_says_where_it_comes_from(registry: Registry, build: Build) -> None:
    register_build(registry, build)
    backup = version_of(registry.versions(build.model), build.backup.bundle_id)
    assert backup is not None
    expected = {
        "bundle_id": build.backup.bundle_id,
        "candidate": "p50.w8",
        "candidate_sha256": build.backup.card.sha256,
        "selected_as": "backup",
        "recipe_build_sha256": build.recipe.build_sha256(),
        "git_commit": "c0ffee",
        "bytes": "300",
    }
    assert expected.items() <= backup.tags.items()


def test_a_new_backup_adds_one_version_and_keeps_the_primary(
    registry: Registry, build: Build, another: Callable[[str], Build]
) -> None:
    first = register_build(registry, build)
    second = register_build(registry, another("e"))
    assert [entry.made for entry in second.entries] == [False, True]
    assert second.entries[0].number == first.entries[0].number
    assert len(registry.versions(build.model)) == 3


def test_swapped_roles_make_no_version_and_are_told(registry: Registry, build: Build) -> None:
    register_build(registry, build)
    swapped = replace(
        build,
        primary=replace(build.backup, role=build.primary.role),
        backup=replace(build.primary, role=build.backup.role),
    )
    register_build(registry, swapped)
    versions = registry.versions(build.model)
    assert len(versions) == 2
    now_primary = version_of(versions, build.backup.bundle_id)
    assert now_primary is not None
    assert now_primary.tags["selected_as"] == "primary"


def test_a_run_left_open_by_a_killed_process_is_completed_not_doubled(registry: Registry, build: Build) -> None:
    draft = build_draft(build)
    left_open = registry.write_run(build.model, draft)
    found = registry.find_run(build.model, draft.key)
    assert found is not None
    assert not found.finished
    run_id, made = log_build(registry, build)
    assert (run_id, made) == (left_open, True)
    assert log_build(registry, build) == (left_open, False)


def test_another_git_commit_is_not_another_build(registry: Registry, build: Build) -> None:
    first = register_build(registry, build)
    later = replace(build, lineage=replace(build.lineage, git_commit="beef"))
    assert register_build(registry, later).run_id == first.run_id
    assert not register_build(registry, later).run_made


def test_a_bundle_that_somebody_else_registered_meanwhile_is_theirs(registry: Registry, build: Build) -> None:
    registered = register_build(registry, build)
    draft = version_draft(build, build.backup, registered.run_id)
    assert registry.add_version(build.model, draft).number == registered.entries[1].number
    assert len(registry.versions(build.model)) == 2


def test_aliases_move_to_the_version_they_are_pointed_at(registry: Registry, build: Build) -> None:
    primary, backup = register_build(registry, build).entries
    registry.set_alias(build.model, "backup", primary.number)
    registry.set_alias(build.model, "backup", backup.number)
    registry.set_alias(build.model, "backup", backup.number)
    assert registry.aliases(build.model) == {"backup": backup.number}


def test_tags_of_a_model_are_kept(registry: Registry, build: Build) -> None:
    register_build(registry, build)
    registry.tag_model(build.model, "channel_seq_begun", "3")
    registry.tag_model(build.model, "channel_seq_begun", "4")
    registry.tag_model(build.model, "channel.1.4", "x" * 4000)
    tags = registry.model_tags(build.model)
    assert (tags["channel_seq_begun"], tags["channel.1.4"]) == ("4", "x" * 4000)


def test_what_is_removed_is_gone_and_removing_it_again_is_no_error(registry: Registry, build: Build) -> None:
    primary, _ = register_build(registry, build).entries
    registry.set_alias(build.model, "candidate", primary.number)
    registry.tag_model(build.model, "channel_seq_begun.ab12", "4")
    before = registry.model_tags(build.model)
    for _ in range(2):
        registry.remove_alias(build.model, "candidate")
        registry.untag_model(build.model, "channel_seq_begun.ab12")
    assert registry.aliases(build.model) == {}
    assert registry.model_tags(build.model) == {k: v for k, v in before.items() if k != "channel_seq_begun.ab12"}


def test_a_versions_bundle_is_handed_out_as_it_was_registered(registry: Registry, build: Build, tmp_path: Path) -> None:
    for entry, sealed in zip(register_build(registry, build).entries, build.sealed, strict=True):
        place = tmp_path / f"fetched-{entry.role}"
        registry.fetch_bundle(build.model, entry.number, place)
        files = {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        ours = sealed.bundle
        assert files == {path.relative_to(ours): path.read_bytes() for path in ours.rglob("*") if path.is_file()}


def test_a_version_says_what_a_promotion_needs_without_its_build(registry: Registry, build: Build) -> None:
    register_build(registry, build)
    versions, facts = registry.versions(build.model), build.facts()
    assert latest_pair(registry.model_tags(build.model)) == facts.pair
    assert is_registered_pair(versions, facts.pair)
    assert pair_of(versions, versions[0]) == facts.pair
    told = facts_of(build.recipe, versions, _vouched(build), facts.now)
    assert replace(told, provenance=facts.provenance) == replace(facts, scripts={})
    assert told.provenance.git_commit == "c0ffee"


@pytest.mark.parametrize("value", ["-inf", "nan", "1e999", "1\x1b[2J"])
def test_a_tag_that_is_no_figure_is_told_in_a_sentence(registry: Registry, build: Build, value: str) -> None:
    register_build(registry, build)
    first, second = registry.versions(build.model)
    forged = replace(first, tags={**first.tags, "latency_ratio_p50": value})
    with pytest.raises(MissingStageError, match="for its latency_ratio_p50, which is no number"):
        facts_of(build.recipe, (forged, second), _vouched(build), build.facts().now)


def test_a_description_with_any_characters_is_taken(registry: Registry, build: Build) -> None:
    registry.describe_model(build.model, "**ä** | `x`\n\n'quoted' \"twice\" % 100 €")
    registry.describe_model(build.model, "")
    assert registry.versions(build.model) == ()


def test_opening_a_registry_leaves_the_address_of_the_next_one_alone(registry: Registry, build: Build) -> None:
    before = os.environ.get("MLFLOW_TRACKING_URI")
    register_build(registry, build)
    assert os.environ.get("MLFLOW_TRACKING_URI") == before
    assert before is None or registry.place == before
