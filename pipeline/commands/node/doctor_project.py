"""Whether a project's files fit one another: recipes, stage parameters, trust policy, channels, dvc, git."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import yaml

from pipeline.bundle.channel import Standing
from pipeline.bundle.policy import KeyUse, TrustPolicy, load_policy
from pipeline.bundle.verify import load_channel
from pipeline.commands.node.doctor_dvc import dvc
from pipeline.core import layout
from pipeline.core.checks import Finding, Word
from pipeline.core.environment import for_children
from pipeline.core.errors import HotspareError
from pipeline.core.recipe import RECIPES, Recipe, load_recipe

_PARAMS = Path("params.yaml")


def project(root: Path, now: datetime) -> Iterator[Finding]:
    """Yield how the project at a folder is; a node has none, but perhaps a policy and channels."""
    names = sorted(path.stem for path in (root / RECIPES).glob("*.yaml"))
    if names:
        recipes: dict[str, Recipe] = {}
        for name in names:
            yield _recipe(name, root, recipes)
        if len(recipes) == len(names):
            yield _params(root / _PARAMS, recipes)
        yield from dvc(root)
        yield _commit(root)
    else:
        yield Finding("recipes", Word.NOTE, f"no {RECIPES} here; `hotspare init` makes a project")
    yield from _trust(root, names, now)


def _recipe(name: str, root: Path, recipes: dict[str, Recipe]) -> Finding:
    what = f"recipe {name}"
    try:
        recipes[name] = load_recipe(name, root / RECIPES)
    except HotspareError as error:
        return Finding(what, Word.FAIL, str(error))
    return Finding(what, Word.PASS, f"{len(recipes[name].variants)} variants")


def _params(path: Path, recipes: Mapping[str, Recipe]) -> Finding:
    """Compare the stages that dvc makes with the recipes' variants."""
    wanted = {
        f"{name}-{variant}": {"model": name, "variant": str(variant)}
        for name, recipe in recipes.items()
        for variant in recipe.variants
    }
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return Finding(str(_PARAMS), Word.FAIL, f"cannot be read: {error}")
    models, variants = (said.get(key) for key in ("models", "variants")) if isinstance(said, dict) else (None, None)
    if not isinstance(models, list) or not isinstance(variants, dict):
        return Finding(str(_PARAMS), Word.FAIL, "needs the lists `models` and `variants`, as `hotspare init` writes")
    wrong = sorted(key for key in {*wanted, *map(str, variants)} if variants.get(key) != wanted.get(key))
    wrong += sorted(set(recipes) ^ set(map(str, models)))
    if wrong:
        text = f"does not say what the recipes say of {', '.join(wrong)}: dvc would leave stages out, or fail in them"
        return Finding(str(_PARAMS), Word.FAIL, text)
    return Finding(str(_PARAMS), Word.PASS, f"{len(wanted)} variants, as the recipes say")


def _commit(root: Path) -> Finding:
    """Tell what the provenance of a bundle could name."""
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(command, env=for_children(), capture_output=True, text=True, check=False)
    except OSError as error:
        return Finding("git", Word.NOTE, f"cannot be run ({error.strerror}); provenance names no commit")
    lines = done.stdout.splitlines()
    head = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if not head or head == "(initial)":
        return Finding("git", Word.NOTE, "there is no commit here; provenance names none")
    changed = sum(not line.startswith("#") for line in lines)
    if changed:
        return Finding("git", Word.NOTE, f"{changed} tracked file(s) differ from {head[:12]}; a release asks for none")
    return Finding("git", Word.PASS, f"all tracked files are as in {head[:12]}")


def _trust(root: Path, recipes: list[str], now: datetime) -> Iterator[Finding]:
    place = root / layout.TRUST_POLICY
    if not place.exists():
        text = (
            f"no {layout.TRUST_POLICY} here; `hotspare keys new {layout.KEYS} --trust {layout.TRUST_POLICY}` makes it"
        )
        yield Finding("trust policy", Word.NOTE, text)
        return
    try:
        policy = load_policy(place)
    except HotspareError as error:
        yield Finding("trust policy", Word.FAIL, str(error))
        return
    yield _policy(policy, recipes)
    yield _state(policy.state_dir)
    for model in sorted(policy.models):
        if (folder := layout.channel_dir(model, root / layout.ARTIFACTS)).exists():
            yield _channel(model, folder, policy, now)


def _policy(policy: TrustPolicy, recipes: list[str]) -> Finding:
    unnamed = sorted(set(recipes) - set(policy.models))
    if unnamed:
        return Finding("trust policy", Word.FAIL, f"does not name {', '.join(unnamed)} in `models`, which has a recipe")
    unsigned = [str(use) for use in KeyUse if not policy.keys_for(use)]
    if unsigned:
        return Finding("trust policy", Word.NOTE, f"no key is for {', '.join(unsigned)}: what needs it is left out")
    return Finding("trust policy", Word.PASS, f"{len(policy.keys)} key(s), accepts {', '.join(sorted(policy.models))}")


def _state(folder: Path) -> Finding:
    """Look whether the floors, which keep older channels out, can be written."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return Finding("state_dir", Word.PASS, f"{folder} can be written")
    return Finding("state_dir", Word.FAIL, f"{folder} cannot be written: nothing would keep older channels out")


def _channel(model: str, folder: Path, policy: TrustPolicy, now: datetime) -> Finding:
    what = f"channel {model}"
    try:
        channel = load_channel(folder, policy, now).channel
    except HotspareError as error:
        return Finding(what, Word.FAIL, str(error))
    told = f"seq {channel.seq}, until {channel.not_after}"
    if channel.dates.standing(now) is not Standing.CURRENT:
        return Finding(
            what, Word.NOTE, f"{told}, to be renewed since {channel.refresh_by}: `hotspare promote {model} --renew`"
        )
    return Finding(what, Word.PASS, told)
