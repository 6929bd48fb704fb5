import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RecipeError
from pipeline.registry.promotion_policy import (
    POLICY,
    ChannelTerms,
    Gates,
    Mode,
    Origin,
    PromotionPolicy,
    load_policy,
    parse_policy,
)


def test_the_shipped_policy_promotes_automatically() -> None:
    policy = load_policy(POLICY)
    assert policy == PromotionPolicy(Mode.AUTOMATIC, policy.gates, ChannelTerms())
    assert policy.gates == Gates(
        drill_max_age_days=30, drill_rto_ms_max=policy.gates.drill_rto_ms_max, provenance=(Origin.DVC_LOCK,)
    )
    assert policy.gates.drill_rto_ms_max is not None


def test_a_policy_by_which_the_builder_would_promote_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"gates\.separate_duties.*mode: manual"):
        parse_policy("mode: automatic\ngates: {separate_duties: true}", "promotion.yaml")


@pytest.mark.parametrize(
    "freeze",
    [
        "{since: Fri 16:00, until: Fri 16:00, why: x}",
        "{since: Fri 16:00, until: '2026-12-20T00:00:00Z', why: x}",
        "{since: Fri 24:00, until: Mon 06:00, why: x}",
        "{since: '2026-12-20T00:00:00Z', until: '2026-12-20T00:00:00Z', why: x}",
        "{since: 2026-12-20, until: 2026-12-21, why: x}",
        "{since: Fri 16:00, until: Mon 06:00}",
        "{since: Fri 16:00, until: Mon 06:00, why: ' '}",
    ],
)
def test_a_freeze_that_is_none_is_refused_when_the_policy_is_read(freeze: str) -> None:
    with pytest.raises(RecipeError, match=r"freeze\[0\]"):
        parse_policy(f"mode: manual\nfreeze: [{freeze}]", "promotion.yaml")


def test_every_problem_of_a_policy_is_told_at_once() -> None:
    text = "mode: sometimes\ngates: {loss_high_max_ratio_of_budget: 2, speed: 1}\nchannel: {refresh_days: -1}\n"
    with pytest.raises(RecipeError) as caught:
        parse_policy(text, "promotion.yaml")
    for part in ("mode", "loss_high_max_ratio_of_budget", "speed", "refresh_days", "4 problem(s)"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "text", ["mode: [", "- mode", "", "mode: automatic\nchannel: {refresh_days: 9, valid_days: 9}"]
)
def test_what_is_no_policy_is_refused_as_one(text: str) -> None:
    with pytest.raises(RecipeError, match=r"promotion\.yaml"):
        parse_policy(text, "promotion.yaml")


@given(st.text())
def test_any_text_is_a_policy_or_a_recipe_error(text: str) -> None:
    with contextlib.suppress(RecipeError):
        assert isinstance(parse_policy(text, "promotion.yaml"), PromotionPolicy)
