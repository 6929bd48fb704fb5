import numpy as np
import pytest

from pipeline.compress.collapse import collapse_of

SOURCE = {"p": np.linspace(0, 1, 50).reshape(50, 1)}


def test_answers_like_the_sources_are_no_collapse() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, (50, 1))
    assert collapse_of(SOURCE, {"p": SOURCE["p"] * 0.5 + 0.2 + noise}) is None


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (np.where(SOURCE["p"] > 0.9, np.nan, SOURCE["p"]), "NaN or infinity in 'p'"),
        (np.where(SOURCE["p"] > 0.9, np.inf, SOURCE["p"]), "NaN or infinity in 'p'"),
        (np.full((50, 1), 0.25), "one answer in 'p'"),
        (1 - SOURCE["p"], "hardly follows its source in 'p'"),
        (np.random.default_rng(1).uniform(size=(50, 1)), "hardly follows"),
    ],
)
def test_collapse_is_named(answers: object, words: str) -> None:
    assert words in str(collapse_of(SOURCE, {"p": np.asarray(answers)}))


def test_source_that_gives_one_answer_is_not_the_variants_fault() -> None:
    constant = {"p": np.full((50, 1), 0.5)}
    assert collapse_of(constant, constant) is None


def test_a_single_row_shows_no_collapse() -> None:
    assert collapse_of({"p": np.array([[0.2]])}, {"p": np.array([[0.9]])}) is None


def test_each_of_several_outputs_is_looked_at() -> None:
    grid = np.random.default_rng(2).normal(size=(50, 2, 3))
    both = {**SOURCE, "grid": grid}
    assert collapse_of(both, {**both, "grid": grid * 0.9}) is None
    assert "'grid' for every validation row" in str(collapse_of(both, {**both, "grid": np.ones((50, 2, 3))}))
    assert "hardly follows its source in 'grid'" in str(collapse_of(both, {**both, "grid": -grid}))
