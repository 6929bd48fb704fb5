"""The workflows: pinned actions, least permissions, secrets in the steps that need them, commands that exist."""

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.cli import COMMANDS

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RELEASE = ROOT / ".github/workflows/release.yml"


def parsed(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def jobs() -> Iterator[tuple[str, dict]]:
    for path in WORKFLOWS:
        for name, job in parsed(path)["jobs"].items():
            yield f"{path.name}:{name}", job


def _finds_nothing(tool: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / tool), *arguments, *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflows_fit_the_schema() -> None:
    _finds_nothing("check-jsonschema", "--builtin-schema", "vendor.github-workflows")


def test_an_audit_of_the_workflows_finds_nothing_not_even_smells() -> None:
    _finds_nothing("zizmor", "--offline", "--no-progress", "--persona", "pedantic", "--strict-collection")


def test_every_action_is_pinned_to_a_commit_and_says_its_version() -> None:
    lines = [line.strip() for path in WORKFLOWS for line in path.read_text().splitlines() if "uses:" in line]
    assert len(lines) >= 10
    for line in lines:
        assert re.fullmatch(r"(- )?uses: [\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_one_version_of_an_action_has_one_commit() -> None:
    found = {
        match.groups()
        for path in WORKFLOWS
        for match in re.finditer(r"uses: (\S+)@([0-9a-f]{40}) # (\S+)", path.read_text())
    }
    assert len({(name, version) for name, _, version in found}) == len({commit for _, commit, _ in found}) == len(found)


def test_nothing_may_more_than_it_needs() -> None:
    release = parsed(RELEASE)
    assert release["permissions"] == {}
    assert {name: job["permissions"] for name, job in release["jobs"].items()} == {
        "build": {"contents": "read"},
        "publish": {"attestations": "write", "contents": "write", "id-token": "write"},
        "promote": {"contents": "read"},
        "channels": {"contents": "write"},
    }
    for path in WORKFLOWS:
        stated = parsed(path)["permissions"]
        assert isinstance(stated, dict)
        assert set(stated.values()) <= {"read"}


def test_every_job_ends_by_itself_and_two_releases_never_run_at_once() -> None:
    assert all(job["timeout-minutes"] <= 90 for _, job in jobs())
    assert parsed(RELEASE)["concurrency"] == {"group": "release", "cancel-in-progress": False}


def test_secrets_are_in_the_environment_of_single_steps_alone() -> None:
    for path in WORKFLOWS:
        assert "secrets" not in str(parsed(path).get("env", ""))
    for name, job in jobs():
        outside = {key: value for key, value in job.items() if key != "steps"}
        assert "secrets." not in str(outside), name
        for step in job["steps"]:
            rest = {key: value for key, value in step.items() if key != "env"}
            assert "secrets." not in str(rest), f"{name}: {step}"


def test_the_signing_key_is_in_no_step_that_builds_publishes_or_runs_an_action() -> None:
    holders = [
        (name, step)
        for name, job in jobs()
        for step in job["steps"]
        if "HOTSPARE_SIGNING_KEY" in str(step.get("env", ""))
    ]
    assert [name for name, _ in holders] == ["release.yml:build", "release.yml:promote"]
    for _, step in holders:
        assert "uses" not in step
        assert "make" not in step["run"]
        assert "gh " not in step["run"]
    # Who may write the repository has no key, and who has the key may write nothing.
    for name, job in jobs():
        if "secrets.HOTSPARE_SIGNING_KEY" in str(job):
            assert set(job["permissions"].values()) == {"read"}, name


def test_no_expression_becomes_text_of_a_script() -> None:
    for name, job in jobs():
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), f"{name}: {step}"


def test_no_checkout_leaves_its_token_behind() -> None:
    for name, job in jobs():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False, name


def test_promotion_waits_for_publication_and_channels_for_promotion() -> None:
    needs = {name: job.get("needs") for name, job in parsed(RELEASE)["jobs"].items()}
    assert needs == {"build": None, "publish": "build", "promote": "publish", "channels": "promote"}


def test_the_commands_of_the_workflows_exist_and_take_these_arguments() -> None:
    lines = [
        line.strip()
        for _, job in jobs()
        for step in job["steps"]
        for line in step.get("run", "").splitlines()
        if line.strip().startswith("hotspare ")
    ]
    assert len(lines) >= 4
    for line in lines:
        _, command, *arguments = shlex.split(line)
        parser = argparse.ArgumentParser(exit_on_error=False)
        importlib.import_module(COMMANDS[command].module).add_arguments(parser)
        parser.parse_args(arguments)


# A `gh` that knows one release, a folder, and is killed before or after its n-th order, an upload after one file.
_GH = """
[ "$2" = view ] && { [ -d released ]; exit; }
echo >> orders
orders=$(wc -l < orders)
[ "$orders" = "$KILLED_BEFORE" ] && exit 137
shift; verb=$1; shift 2
case $verb in
  create) mkdir released && touch released/.draft || exit 1 ;;
  upload)
    [ -d released ] || exit 1
    for file; do
      [ "$file" = --clobber ] && continue
      case "$*" in *--clobber*) ;; *) [ -e "released/${file##*/}" ] && exit 1 ;; esac
      cp "$file" released/ || exit 1
      [ "$orders" = "$KILLED_AFTER" ] && exit 137
    done ;;
  edit) rm -f released/.draft ;;
esac
[ "$orders" != "$KILLED_AFTER" ] || exit 137
"""


def _publish(folder: Path, **killed: str) -> int:
    """Run the steps that publish archives and channels, as a runner does."""
    for job in ("publish", "channels"):
        (step,) = (step for step in parsed(RELEASE)["jobs"][job]["steps"] if "gh " in step.get("run", ""))
        environ = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "TAG": "v1.2.0", **killed}
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(command, cwd=folder, env=environ, check=False)
        if done.returncode:
            return done.returncode
    return 0


@pytest.mark.parametrize("order", range(1, 5))
@pytest.mark.parametrize("kind", ["KILLED_BEFORE", "KILLED_AFTER"])
def test_a_publication_that_was_killed_at_any_order_is_finished_by_running_it_again(
    tmp_path: Path, kind: str, order: int
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gh").write_text(f"#!/bin/bash\n{_GH}")
    (tmp_path / "bin/gh").chmod(0o755)
    for name in ("release/a.tar.zst", "release/RELEASE.md", "channels/a-channel.tar.zst", "channels/b.tar.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert _publish(tmp_path, **{kind: str(order)}) == 137
    assert _publish(tmp_path) == 0
    assert _publish(tmp_path) == 0  # all of it once more
    found = sorted(path.name for path in (tmp_path / "released").iterdir())
    assert found == ["RELEASE.md", "a-channel.tar.zst", "a.tar.zst", "b.tar.zst"]  # and no draft any more


def test_nothing_that_a_run_keeps_stops_the_next_one() -> None:
    keeps = [step["with"] for _, job in jobs() for step in job["steps"] if "upload-artifact@" in step.get("uses", "")]
    assert len(keeps) == 3
    assert all(one["overwrite"] is True for one in keeps)


def test_a_key_that_is_thrown_away_meets_neither_registry_nor_depot() -> None:
    steps = [step.get("run", "") for step in parsed(RELEASE)["jobs"]["build"]["steps"]]
    (clean,) = (text for text in steps if "rm -r artifacts/keys" in text)
    commands = [line.strip() for line in clean.splitlines() if line.strip().startswith(("dvc ", "make ", "hotspare "))]
    assert commands == ["make env artifacts/trust.yaml", "dvc repro drill report"]
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "hotspare register" not in str([stages["drill"], stages["report"]])


def test_the_make_targets_of_the_workflows_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    texts = [step.get("run", "") for _, job in jobs() for step in job["steps"]]
    lines = [found for text in texts for found in re.findall(r"^\s*make (.+)", text, re.MULTILINE)]
    targets = {target for line in lines for target in line.split()}
    assert targets == {"env", "artifacts/trust.yaml"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
