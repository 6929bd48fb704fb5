import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.build.schema import schema_text
from pipeline.core.errors import RecipeError
from pipeline.core.names import CandidateName, Format, Scheme
from pipeline.core.recipe import load_recipe, parse_recipe

PROJECT = Path(__file__).parents[2]
RECIPES = PROJECT / "recipes" / "models"
SCHEMA = PROJECT / "recipes" / "recipe.schema.json"
EXAMPLES = ("credit", "diagnosis", "recommendation")


def raw(model: str = "credit") -> dict:
    return yaml.safe_load((RECIPES / f"{model}.yaml").read_text())


def parse(value: object):
    return parse_recipe(yaml.safe_dump(value, sort_keys=False), "recipe.yaml")


def refusal(value: object) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(value)
    return str(caught.value)


@pytest.mark.parametrize("model", EXAMPLES)
def test_the_shipped_recipes_are_right_for_the_reader_and_for_editors(model):
    assert load_recipe(model, RECIPES).model == model
    jsonschema.validate(raw(model), json.loads(SCHEMA.read_text()))


@pytest.mark.parametrize("model", EXAMPLES)
def test_each_recipe_names_its_schema_for_editors(model):
    first = (RECIPES / f"{model}.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=../recipe.schema.json"
    assert (RECIPES / first.split("=")[1]).resolve() == SCHEMA


def test_the_schema_in_the_repository_is_what_the_command_prints():
    assert SCHEMA.read_text() == schema_text(), "run: hotspare schema > recipes/recipe.schema.json"


@pytest.mark.parametrize("model", EXAMPLES)
def test_the_four_splits_of_a_recipe_are_four_files(model):
    assert len(set(raw(model)["data"].values())) == 4


def test_every_typo_is_reported_at_once_with_its_place():
    value = raw()
    value["budget"] = value.pop("budgets")
    value["metric"] = "auk"
    value["variants"]["p51"] = {"epoch": 3}
    value["schemes"]["tflite"].append("w7")
    value["select"]["backup"]["prefer"] = "byte"
    value["serving"] = {"threads": 0}
    message = refusal(value)
    for place in (
        "recipe.yaml has 8 problem(s)",
        "budget: unknown key",
        "budgets: missing",
        "metric: 'auk' is not one of",
        "variants.p51: 'p51' does not have the form",
        "variants.p51.epoch: unknown key",
        "schemes.tflite[5]: 'w7' is not one of",
        "select.backup.prefer: 'byte' is not one of",
        "serving.threads: 0 is below 1",
    ):
        assert place in message


@pytest.mark.parametrize("name", ["Credit", "../credit", "a b", ""])
def test_a_model_name_that_is_no_file_name_is_refused(name):
    assert "model: " in refusal({**raw(), "model": name})


def test_a_recipe_without_dense_is_refused():
    value = raw()
    del value["variants"]["dense"]
    assert "variants.dense: missing" in refusal(value)


@pytest.mark.parametrize("variant", ["dense", "p50", "p24", "p50b", "c16", "qat", "p50sc16", "p50sqat"])
def test_only_fewer_channels_do_without_training(variant):
    value = raw()
    value["variants"] = {"dense": {}, "p50s": {"epochs": 0}}
    assert parse_recipe(yaml.safe_dump(value), "recipe.yaml").variants["p50s"].epochs == 0
    value["variants"][variant] = {"epochs": 0}
    assert f"variants.{variant}.epochs: 0 is only for pNNs" in refusal(value)


def test_a_recipe_without_a_float_reference_is_refused():
    assert "one format must hold f32" in refusal({**raw(), "schemes": {"tflite": ["w8", "w8d"]}})


def test_a_recipe_with_one_candidate_has_no_backup():
    message = refusal({**raw(), "variants": {"dense": {}}, "schemes": {"tflite": ["f32"]}})
    assert "fewer than two candidates" in message


@pytest.mark.parametrize("text", ["", "- a", "just words", "3"])
def test_yaml_that_is_no_mapping_is_refused(text):
    with pytest.raises(RecipeError, match="expected a mapping"):
        parse_recipe(text, "recipe.yaml")


@pytest.mark.parametrize("text", ["a: [", "a: b: c", "!!python/object/apply:os.system ['true']", "\0"])
def test_text_that_is_no_safe_yaml_is_refused_in_one_line(text):
    with pytest.raises(RecipeError, match="is not YAML") as caught:
        parse_recipe(text, "recipe.yaml")
    assert "\n" not in str(caught.value)


def test_a_key_that_stands_twice_is_refused():
    text = (RECIPES / "credit.yaml").read_text() + "\nseed: 21\n"
    with pytest.raises(RecipeError, match="seed"):
        parse_recipe(text, "recipe.yaml")


def test_numbers_may_be_written_with_an_exponent():
    text = (RECIPES / "credit.yaml").read_text().replace("threshold: ", "threshold: 5e-1 #")
    assert parse_recipe(text, "recipe.yaml").threshold == 0.5


@pytest.mark.parametrize("word", ["on", "no", "2024-01-01", "2024-13-45", "12:30", "010"])
def test_words_that_old_yaml_takes_for_something_else_stay_words(word):
    text = re.sub(r"title: .*", f"title: {word}", (RECIPES / "credit.yaml").read_text(), count=1)
    assert parse_recipe(text, "recipe.yaml").about.title == word


def test_a_key_that_stands_twice_is_told_with_its_line():
    with pytest.raises(RecipeError, match=r"'seed' stands twice \(line 2, column 1\)\.$"):
        parse_recipe("seed: 1\nseed: 2\n", "recipe.yaml")


def test_endless_nesting_is_refused():
    with pytest.raises(RecipeError, match="nested too deeply"):
        parse_recipe("[" * 5000, "recipe.yaml")


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(RecipeError, match="is not YAML"):
        parse_recipe(b"\xff\xfe\xfd", "recipe.yaml")


@given(st.text(max_size=60))
def test_reading_any_text_ends_in_a_recipe_error(text):
    with pytest.raises(RecipeError):
        parse_recipe(text, "recipe.yaml")


def test_a_missing_recipe_is_named_with_those_that_exist():
    with pytest.raises(RecipeError, match="recipes here: credit, diagnosis, recommendation"):
        load_recipe("weather", RECIPES)


def test_a_recipe_of_another_name_than_its_file_is_refused(tmp_path):
    (tmp_path / "other.yaml").write_text((RECIPES / "credit.yaml").read_text())
    with pytest.raises(RecipeError, match="does not match the file's name"):
        load_recipe("other", tmp_path)


def test_candidates_are_every_variant_in_every_scheme_of_every_format_once():
    recipe = parse({**raw(), "schemes": {"tflite": ["f32", "w8", "w8"], "onnx": ["f32"]}})
    expected = {
        CandidateName(variant, scheme, name_format)
        for variant in raw()["variants"]
        for scheme, name_format in ((Scheme.F32, Format.TFLITE), (Scheme.W8, Format.TFLITE), (Scheme.F32, Format.ONNX))
    }
    assert len(recipe.candidates()) == len(expected)
    assert set(recipe.candidates()) == expected


def test_the_reference_is_the_float_tflite_model_or_else_the_onnx_one():
    assert parse(raw()).reference == CandidateName("dense", Scheme.F32)
    onnx = parse({**raw(), "schemes": {"onnx": ["f32", "w8d"]}})
    assert onnx.reference == CandidateName("dense", Scheme.F32, Format.ONNX)


@pytest.mark.parametrize(
    ("key", "value"), [("budgets", {"loss_max_abs": 0.5}), ("threshold", 0.9), ("select", {}), ("serving", {})]
)
def test_the_build_digest_ignores_what_does_not_shape_candidates(key, value):
    assert parse({**raw(), key: value}).build_sha256() == parse(raw()).build_sha256()


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 99), ("variants", {"dense": {}}), ("schemes", {"tflite": ["f32", "w8"]})]
)
def test_the_build_digest_follows_what_shapes_candidates(key, value):
    assert parse({**raw(), key: value}).build_sha256() != parse(raw()).build_sha256()
