import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealed import NOW, Sealed

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core.names import Role
from pipeline.runtime.shadowing import Agreements, Shadowing


@pytest.fixture(scope="module")
def bundles(pair: Sealed) -> dict[Role, VerifiedBundle]:
    policy = load_policy(pair.trust)
    folders = {Role.PRIMARY: pair.primary, Role.BACKUP: pair.backup}
    return {role: verify_bundle(folder, policy, NOW) for role, folder in folders.items()}


@pytest.fixture(scope="module")
def agreements(bundles: dict[Role, VerifiedBundle]) -> Agreements:
    return Agreements(bundles)


def outputs(agreements: Agreements, bundles: dict[Role, VerifiedBundle], value: float) -> dict[str, np.ndarray]:
    return {tensor.name: np.full((4, 1), value, np.float32) for tensor in bundles[Role.PRIMARY].io.outputs}


@given(ratio=st.floats(0, 1), requests=st.integers(1, 500))
def test_the_share_that_was_asked_for_is_shadowed_evenly(agreements, ratio, requests) -> None:
    shadowing = Shadowing(agreements.of_pair, ratio)
    due = [shadowing.is_due() for _ in range(requests)]
    assert abs(sum(due) - ratio * requests) <= 1 + 1e-6 * requests


def test_equal_answers_never_raise_a_doubt_and_wild_ones_do(agreements, bundles) -> None:
    shadowing = Shadowing(agreements.of_pair, 1.0)
    right, wrong = outputs(agreements, bundles, 0.3), outputs(agreements, bundles, 0.9)
    assert [shadowing.compare(right, right) for _ in range(50)] == [None] * 50
    said = [shadowing.compare(right, wrong) for _ in range(3)]
    assert said[:2] == [None, None]
    assert "disagreed on 3" in (said[2] or "")
    assert shadowing.compare(right, wrong) is None  # said once, it is counted anew
    assert (shadowing.compared, shadowing.disagreed) == (54, 4)


def test_a_pair_of_one_side_shadows_nothing(bundles) -> None:
    alone = Agreements({Role.PRIMARY: bundles[Role.PRIMARY]})
    shadowing = Shadowing(alone.of_pair, 1.0)
    assert not any(shadowing.is_due() for _ in range(10))
    assert shadowing.compare({}, {}) is None
    assert alone.between(Role.PRIMARY, Role.BACKUP) is None
    assert alone.between(Role.PRIMARY, Role.PRIMARY) is not None


def test_replicas_must_agree_more_closely_than_the_two_sides(agreements, bundles) -> None:
    right = outputs(agreements, bundles, 0.3)
    for one, other in ((Role.PRIMARY, Role.PRIMARY), (Role.BACKUP, Role.BACKUP), (Role.PRIMARY, Role.BACKUP)):
        agreement = agreements.between(one, other)
        assert agreement is not None
        assert agreement.agree(right, right)
        assert not agreement.agree(right, outputs(agreements, bundles, 0.9))
