"""Laws about the tree: what a reader may rely on without reading the code."""

import ast
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from string import Template

import pytest
import yaml

from pipeline.core import errors
from pipeline.core.recipe import Recipe, load_recipe, parse_recipe
from pipeline.drill.script import load_script

ROOT = Path(__file__).parent.parent.parent
MODULES = sorted((ROOT / "pipeline").rglob("*.py"))


Nodes = Sequence[tuple[Path, ast.AST]]


@pytest.fixture(scope="module")
def nodes() -> Nodes:
    """The nodes that a law speaks of, of every module."""
    told = (ast.Import, ast.ImportFrom, ast.Call, ast.keyword, ast.Global)
    trees = ((path, ast.parse(path.read_text())) for path in MODULES)
    return [(path, node) for path, tree in trees for node in ast.walk(tree) if isinstance(node, told)]


def _tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return listing.stdout.splitlines()


def test_no_python_under_the_folders_that_could_shadow_a_library() -> None:
    assert [name for name in _tracked() if re.match(r"(mlflow|recipes|artifacts)/.*\.py$", name)] == []


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
    assert [str(path) for path in MODULES if path.stem in drawers or path.parent.name in drawers] == []


def test_only_bundle_verify_makes_a_verified_bundle(nodes: Nodes) -> None:
    makers = {
        path.relative_to(ROOT).as_posix()
        for path, node in nodes
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "VerifiedBundle"
    }
    assert makers == {"pipeline/bundle/verify.py"}


def test_nothing_is_unpickled_and_no_text_is_run_as_code(nodes: Nodes) -> None:
    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    # Its workers are started here and read nothing but what was handed to them: docs/decisions/0012.
    among_trusted_processes = {"pipeline/compress/search/fanout.py"}
    found = []
    for path, node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            is_trusted = path.relative_to(ROOT).as_posix() in among_trusted_processes
            if (banned - ({"joblib"} if is_trusted else set())) & {name.split(".")[0] for name in names}:
                found.append(f"{path}:{node.lineno}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant) and node.value.value is False, f"{path}:{node.value.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"eval", "exec"}:
            found.append(f"{path}:{node.lineno}")
    assert found == []


def test_no_module_keeps_state_that_functions_change(nodes: Nodes) -> None:
    assert [f"{path}:{node.lineno}" for path, node in nodes if isinstance(node, ast.Global)] == []


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


def test_web_libraries_live_in_the_http_room_alone(nodes: Nodes) -> None:
    web = {"starlette", "uvicorn", "orjson", "httptools"}
    rooms = {path.relative_to(ROOT / "pipeline").parent.as_posix() for path, node in nodes if web & _imported(node)}
    assert rooms == {"runtime/http"}


def test_the_pair_machine_has_no_clock_no_files_and_no_chance(nodes: Nodes) -> None:
    pure = {"pair", "pair_nouns", "pair_seats", "pair_serving", "request", "request_nouns", "detectors"}
    effects = {"asyncio", "time", "datetime", "random", "os", "pathlib", "socket", "subprocess", "signal"}
    assert [
        (path.name, sorted(effects & _imported(node)))
        for path, node in nodes
        if path.parent.name == "runtime" and path.stem in pure and effects & _imported(node)
    ] == []


def test_the_drawn_error_tree_is_the_real_one() -> None:
    drawn = dict(re.findall(r"[├└]── (\w+) +(\d+)   ", errors.__doc__ or ""))
    classes = {
        name: item
        for name, item in vars(errors).items()
        if isinstance(item, type) and issubclass(item, errors.HotspareError)
    }
    assert {name: str(classes[name].exit_code) for name in drawn} == drawn
    groups = {"HotspareError", "InputError", "Refusal", "Untrusted", "SurroundingsError"}
    assert set(classes) == set(drawn) | groups


def test_the_pairs_in_params_are_the_recipes_variants() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    recipes = sorted(path.stem for path in (ROOT / "recipes/models").glob("*.yaml"))
    assert params["models"] == recipes
    expected = {
        f"{model}-{variant}": {"model": model, "variant": variant}
        for model in recipes
        for variant in load_recipe(model, ROOT / "recipes/models").variants
    }
    assert params["variants"] == expected


@pytest.mark.parametrize("place", ["dvc.yaml", "pipeline/commands/build/scaffold/stages.yaml"])
def test_every_output_folder_has_exactly_one_writer(place: str) -> None:
    stages = yaml.safe_load((ROOT / place).read_text())["stages"]
    outs = [out for stage in stages.values() for out in stage.get("do", stage).get("outs", [])]
    assert len(outs) == len(set(outs)) > 0


def test_a_scaffolded_project_has_the_stages_of_this_one() -> None:
    here = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    scaffold = yaml.safe_load((ROOT / "pipeline/commands/build/scaffold/stages.yaml").read_text())["stages"]
    del here["train"]
    assert {name: stage.get("do", stage)["cmd"] for name, stage in here.items()} == {
        name: stage.get("do", stage)["cmd"] for name, stage in scaffold.items()
    }
    params = {name: stage.get("do", stage).get("params") for name, stage in here.items()}
    assert params == {name: stage.get("do", stage).get("params") for name, stage in scaffold.items()}


@pytest.mark.parametrize(("ours", "theirs"), [("mlflow/promotion.yaml", "promotion.yaml"), (".dvcignore", "dvcignore")])
def test_the_scaffold_ships_the_policy_that_is_tried_here(ours: str, theirs: str) -> None:
    assert (ROOT / ours).read_text() == (ROOT / "pipeline/commands/build/scaffold" / theirs).read_text()


def _watched(stage: dict) -> Iterator[str]:
    for file in stage.get("do", stage).get("params", []):
        for keys in file.values():
            yield from (key.split(".")[0] for key in keys)


def test_recipes_spell_every_key_that_a_stage_watches() -> None:
    """dvc refuses to run a stage whose parameter is missing, even where the recipe has a default for it."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].values()
    watched = {key for stage in stages for key in _watched(stage)}
    for recipe in (ROOT / "recipes/models").glob("*.yaml"):
        assert watched <= yaml.safe_load(recipe.read_text()).keys(), recipe.name
    scaffold = (ROOT / "pipeline/commands/build/scaffold/recipe.yaml").read_text()
    assert {key for key in watched if f"\n{key}:" not in scaffold} == set()


def test_every_key_of_a_recipe_is_watched_by_the_stages_that_judge() -> None:
    """A changed key that no stage watches would leave a pair in force that was chosen by the old one."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    watched = {name: set(_watched(stage)) for name, stage in stages.items()}
    assert {field.name for field in fields(Recipe)} - {"model"} == set().union(*watched.values())
    for judging in ("quantize", "score", "select", "drill"):
        assert watched[judging] >= {"data", "metric", "output", "threshold"}, judging
    assert "slices" in watched["score"]


def test_the_drills_that_recipes_list_are_there_and_can_be_held_by_anybody() -> None:
    listed = {
        name for path in (ROOT / "recipes/models").glob("*.yaml") for name in load_recipe(path.stem, path.parent).drills
    }
    listed |= set(parse_recipe(_scaffolded_recipe(), "scaffold").drills)
    assert listed
    for name in sorted(listed):
        script = load_script(ROOT / f"recipes/drills/{name}.drill")
        assert script.needs == (), name
        assert script.transcript, f"{name}: run hotspare drill --rewrite"


def _scaffolded_recipe() -> str:
    text = (ROOT / "pipeline/commands/build/scaffold/recipe.yaml").read_text()
    values = {"model": "m", "file": "model.onnx", "format": "onnx", "metric": "auc", "max_loss": "0.01", "seed": "0"}
    return Template(text).substitute(values, variants="  dense: {}", schemes="  onnx: [f32, w8a8]")


def test_locks_hold_hashes_and_name_no_host() -> None:
    locks = sorted((ROOT / "locks").glob("*.lock"))
    assert [lock.stem for lock in locks] == ["bootstrap", "build", "node"]
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text
        pins = re.findall(r"^[a-z0-9][\w.-]*==", text, re.MULTILINE)
        assert pins
        assert len(re.findall(r"^[a-z0-9][^\n]*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins)


def test_every_process_that_is_started_gets_an_environment_without_the_signing_key(nodes: Nodes) -> None:
    starts = {"run", "Popen", "call", "check_call", "check_output"}
    found = []
    for path, node in nodes:
        function = node.func if isinstance(node, ast.Call) else None
        is_start = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "subprocess"
        if is_start and function.attr in starts and "env" not in {item.arg for item in node.keywords}:
            found.append(f"{path}:{node.lineno}")
    assert found == []
