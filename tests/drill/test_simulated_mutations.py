"""A pair with a planted bug is caught by a drill that a sound pair passes."""

import pytest
from mutations import MUTATIONS, Mutation, caught, planted

from pipeline.drill.script import parse_script
from pipeline.drill.simulated.explore import broken, explore
from pipeline.drill.simulated.history import violations
from pipeline.drill.simulated.world import simulate


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_planted_bug_is_caught(mutation: Mutation) -> None:
    assert caught(mutation) != ()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_without_it_the_same_drill_is_passed(mutation: Mutation) -> None:
    assert violations(mutation.script, simulate(mutation.script, 1)) == ()


@pytest.mark.slow
def test_random_drills_find_a_planted_bug_and_print_the_smallest_drill_that_shows_it() -> None:
    blind = next(one for one in MUTATIONS if one.name == "detector off (late answers)")
    with planted(blind):
        seed = next(seed for seed in range(100) if explore([seed]).failures)
        (failure,) = explore([seed]).failures
        small = parse_script(failure.script, "small")
        assert broken(small, seed) == failure.violations != ()
    assert len(small.strikes) <= 2
    assert broken(small, seed) == ()
