from dataclasses import replace

from pipeline.registry.description import describe_build, describe_candidate, describe_model, describe_version
from pipeline.registry.record import Build


def test_the_model_page_says_what_people_ask_first(build: Build) -> None:
    text = describe_model(build.recipe, build.cards, build.selected)
    for part in (
        "Credit default risk",
        "Ranks card holders",
        "- **primary** `dense.f32`: AUC 0.7840 against the float model's 0.7850, loss +0.0010",
        "- **backup** `p50.w8`",
        "300 bytes, 30% of the float model's",
        f'mlflow.pyfunc.load_model("models:/{build.model}@backup")',
        "one bank in 2005",
        "CC-BY-4.0",
    ):
        assert part in text


def test_only_the_chosen_two_are_told_on_the_build(build: Build) -> None:
    text = describe_build(build.recipe, build.cards, build.selected)
    assert "p50.w8" in text
    assert "dense.w8" not in text


def test_a_candidate_that_loses_nothing_has_no_interval_to_tell(build: Build) -> None:
    task = replace(build.primary.card.task, loss_abs=0.0, loss_low=0.0, loss_high=0.0)
    text = describe_version(replace(build.primary.card, task=task), "a" * 64, 1234)
    assert "the same as the float model's" in text
    assert "interval" not in text


def test_warnings_of_the_locked_rows_are_told(build: Build) -> None:
    warned = replace(build.selected, warnings=("the backup loses more on the locked rows",))
    assert "**Warning.** the backup loses more" in describe_build(build.recipe, build.cards, warned)


def test_a_candidate_without_a_verdict_is_not_called_chosen(build: Build) -> None:
    assert "not judged" in describe_candidate(build.cards[0], None)
