"""A pair with a planted bug is caught by a drill that a sound pair passes."""

import pytest
from mutations import MUTATIONS, Mutation, caught

from pipeline.drill.simulated.history import violations
from pipeline.drill.simulated.world import simulate


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_a_planted_bug_is_caught(mutation: Mutation) -> None:
    assert caught(mutation) != ()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.name)
def test_without_it_the_same_drill_is_passed(mutation: Mutation) -> None:
    assert violations(mutation.script, simulate(mutation.script, 1)) == ()
