import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.clock import from_text, to_text
from pipeline.core.errors import RecipeError
from pipeline.core.names import Format, Role, Scheme
from pipeline.core.recipe import Diversity
from pipeline.registry.freezing import Freeze
from pipeline.registry.promotion import (
    POLICY,
    ChannelTerms,
    Facts,
    Gates,
    Issue,
    Keep,
    Mode,
    Origin,
    Pair,
    Promote,
    PromotionPolicy,
    Provenance,
    Refuse,
    Rehearsal,
    Standard,
    Standing,
    decide,
    load_policy,
    parse_policy,
    plan_channel,
)

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PRIMARY = Standing(Role.PRIMARY, "aa" * 32, "dense.f16", Scheme.F16, Format.TFLITE, "cc" * 32, 0.001, 1.0)
BACKUP = Standing(Role.BACKUP, "bb" * 32, "p50.w8", Scheme.W8, Format.TFLITE, "cc" * 32, 0.009, 1.4)
PAIR = Pair("aa" * 32, "bb" * 32)
FACTS = Facts("credit", 0.01, (Diversity.SCHEME,), PRIMARY, BACKUP, NOW)
POLICY_NOW = PromotionPolicy(Mode.AUTOMATIC, Gates())
TERMS = ChannelTerms()
DRILLED = Rehearsal(PAIR, True, True, NOW - timedelta(days=2), 40.0)
ASKS_FOR_DRILL = PromotionPolicy(Mode.AUTOMATIC, Gates(drill_max_age_days=7, drill_rto_ms_max=250))


def test_a_pair_that_meets_every_gate_is_promoted() -> None:
    assert isinstance(decide(POLICY_NOW, FACTS), Promote)


@pytest.mark.parametrize(
    ("facts", "gate"),
    [
        (replace(FACTS, backup=replace(BACKUP, loss_high=0.0101)), "backup loss"),
        (replace(FACTS, primary=replace(PRIMARY, loss_high=0.02)), "primary loss"),
        (replace(FACTS, backup=replace(BACKUP, latency_ratio_p50=3.01)), "backup latency"),
        (replace(FACTS, primary=replace(PRIMARY, latency_ratio_p50=40.0)), "primary latency"),
        (replace(FACTS, backup=replace(BACKUP, io_contract_sha256="dd" * 32)), "io contract"),
        (replace(FACTS, backup=replace(BACKUP, bundle_id=PRIMARY.bundle_id)), "two bundles"),
        (replace(FACTS, backup=replace(BACKUP, scheme=Scheme.F16)), "diverse scheme"),
        (replace(FACTS, diverse=(Diversity.ENGINE,)), "diverse engine"),
    ],
)
def test_each_gate_refuses_alone_and_says_so(facts: Facts, gate: str) -> None:
    refused = decide(POLICY_NOW, facts)
    assert isinstance(refused, Refuse)
    assert [reason.split(":")[0] for reason in refused.reasons] == [gate]


def test_a_refusal_lists_every_failing_gate() -> None:
    bad = replace(BACKUP, loss_high=1.0, latency_ratio_p50=9.0, scheme=Scheme.F16)
    refused = decide(POLICY_NOW, replace(FACTS, backup=bad))
    assert isinstance(refused, Refuse)
    assert len(refused.reasons) == 3


def test_figures_exactly_at_their_bound_pass() -> None:
    at_bound = replace(BACKUP, loss_high=0.01, latency_ratio_p50=3.0)
    assert isinstance(decide(POLICY_NOW, replace(FACTS, backup=at_bound)), Promote)


def test_a_stricter_share_of_the_budget_binds() -> None:
    policy = PromotionPolicy(Mode.AUTOMATIC, Gates(loss_high_max_ratio_of_budget=0.5))
    assert isinstance(decide(policy, FACTS), Refuse)


def test_nan_figures_never_pass() -> None:
    nan = float("nan")
    refused = decide(POLICY_NOW, replace(FACTS, backup=replace(BACKUP, loss_high=nan, latency_ratio_p50=nan)))
    assert isinstance(refused, Refuse)
    assert len(refused.reasons) == 2


def test_a_policy_that_asks_for_no_drill_needs_none() -> None:
    assert isinstance(decide(POLICY_NOW, replace(FACTS, rehearsal=None)), Promote)
    bad = replace(DRILLED, passed=False, is_live=False, rto_ms_p95=None)
    assert isinstance(decide(POLICY_NOW, replace(FACTS, rehearsal=bad)), Promote)


def test_a_fresh_live_drill_of_exactly_this_pair_opens_the_gate() -> None:
    verdict = decide(ASKS_FOR_DRILL, replace(FACTS, rehearsal=DRILLED))
    assert isinstance(verdict, Promote)
    assert [gate.name for gate in verdict.gates][-3:] == ["drill", "drill age", "drill RTO"]
    assert "hotspare drill" not in " ".join(gate.finding for gate in verdict.gates)  # what passed needs no advice


@pytest.mark.parametrize(
    ("rehearsal", "gate", "words"),
    [
        (None, "drill", "hotspare drill credit"),
        (replace(DRILLED, pair=Pair(PAIR.primary, "ee" * 32)), "drill", "another pair"),
        (replace(DRILLED, pair=Pair("ee" * 32, PAIR.backup)), "drill", "another pair"),
        (replace(DRILLED, pair=Pair(PAIR.backup, PAIR.primary)), "drill", "another pair"),
        (replace(DRILLED, passed=False), "drill", "missed its objectives"),
        (replace(DRILLED, is_live=False), "drill", "simulated world alone"),
        (replace(DRILLED, ended_at=NOW - timedelta(days=7, seconds=1)), "drill age", "allowed are 7"),
        (replace(DRILLED, ended_at=NOW + timedelta(minutes=6)), "drill age", "after this machine's time"),
        (replace(DRILLED, rto_ms_p95=250.1), "drill RTO", "allowed are 250 ms"),
        (replace(DRILLED, rto_ms_p95=None), "drill RTO", "not all came back"),
        (replace(DRILLED, rto_ms_p95=float("nan")), "drill RTO", "nan"),
    ],
)
def test_each_flaw_of_a_drill_refuses_alone(rehearsal: Rehearsal | None, gate: str, words: str) -> None:
    refused = decide(ASKS_FOR_DRILL, replace(FACTS, rehearsal=rehearsal))
    assert isinstance(refused, Refuse)
    assert [reason.split(":")[0] for reason in refused.reasons] == [gate]
    assert words in refused.reasons[0]


@pytest.mark.parametrize("gates", [Gates(drill_max_age_days=7), Gates(drill_rto_ms_max=250)])
def test_either_key_alone_asks_for_a_drill(gates: Gates) -> None:
    policy = PromotionPolicy(Mode.AUTOMATIC, gates)
    assert isinstance(decide(policy, FACTS), Refuse)
    assert isinstance(decide(policy, replace(FACTS, rehearsal=DRILLED)), Promote)
    assert isinstance(decide(policy, replace(FACTS, rehearsal=replace(DRILLED, passed=False))), Refuse)


def test_a_drill_that_left_out_what_the_recipe_wants_drilled_refuses_and_names_it() -> None:
    wanting = replace(FACTS, drills=("kill", "stop", "hang"))
    refused = decide(ASKS_FOR_DRILL, replace(wanting, rehearsal=replace(DRILLED, scripts={"kill": "11" * 32})))
    assert isinstance(refused, Refuse)
    assert "without stop, hang" in refused.reasons[0]
    whole = replace(DRILLED, scripts=dict.fromkeys(("kill", "stop", "hang", "more"), "11" * 32))
    assert isinstance(decide(ASKS_FOR_DRILL, replace(wanting, rehearsal=whole)), Promote)


def test_a_drill_of_weaker_scripts_under_the_names_that_the_recipe_lists_refuses_and_names_them() -> None:
    wanting = replace(FACTS, drills=("kill", "stop"), scripts={"kill": "11" * 32, "stop": "22" * 32})
    weaker = replace(DRILLED, scripts={"kill": "11" * 32, "stop": "33" * 32})
    refused = decide(ASKS_FOR_DRILL, replace(wanting, rehearsal=weaker))
    assert isinstance(refused, Refuse)
    assert "by other scripts than those of now (stop)" in refused.reasons[0]
    same = replace(DRILLED, scripts={"kill": "11" * 32, "stop": "22" * 32, "more": "44" * 32})
    assert isinstance(decide(ASKS_FOR_DRILL, replace(wanting, rehearsal=same)), Promote)


def test_a_drill_exactly_at_its_bounds_passes() -> None:
    at_bound = replace(DRILLED, ended_at=NOW - timedelta(days=7), rto_ms_p95=250.0)
    assert isinstance(decide(ASKS_FOR_DRILL, replace(FACTS, rehearsal=at_bound)), Promote)


def test_a_drill_that_ended_this_minute_on_a_clock_slightly_ahead_passes() -> None:
    ahead = replace(DRILLED, ended_at=NOW + timedelta(minutes=4))
    assert isinstance(decide(ASKS_FOR_DRILL, replace(FACTS, rehearsal=ahead)), Promote)


def test_the_first_promotion_takes_sequence_one_and_its_dates_from_the_terms() -> None:
    issue = plan_channel(TERMS, None, 0, PAIR, NOW)
    assert issue == Issue(1, 1, NOW, NOW + timedelta(days=30), NOW + timedelta(days=90), "promoted")


@given(channel_seq=st.integers(0, 2**40), registry_seq=st.integers(0, 2**40), epoch=st.integers(1, 9))
def test_a_sequence_number_is_never_used_twice_and_the_epoch_never_falls(
    channel_seq: int, registry_seq: int, epoch: int
) -> None:
    current = Standard(Pair("x", "y"), epoch, channel_seq, NOW)
    issue = plan_channel(replace(TERMS, epoch=3), current, registry_seq, PAIR, NOW)
    assert isinstance(issue, Issue)
    assert issue.seq == max(channel_seq, registry_seq) + 1
    assert issue.epoch == max(3, epoch)


def test_the_same_pair_keeps_its_channel_until_renewal_is_due() -> None:
    current = Standard(PAIR, 1, 4, NOW + timedelta(seconds=1))
    assert plan_channel(TERMS, current, 4, PAIR, NOW) == Keep()
    renewed = plan_channel(TERMS, current, 4, PAIR, NOW + timedelta(seconds=1))
    assert isinstance(renewed, Issue)
    assert (renewed.seq, renewed.why) == (5, "renewed")


def test_swapped_roles_are_a_new_channel() -> None:
    current = Standard(Pair(PAIR.backup, PAIR.primary), 1, 4, NOW + timedelta(days=1))
    issue = plan_channel(TERMS, current, 4, PAIR, NOW)
    assert isinstance(issue, Issue)
    assert issue.why == "roles swapped"


def test_a_raised_epoch_issues_a_channel_for_the_same_pair() -> None:
    current = Standard(PAIR, 1, 4, NOW + timedelta(days=1))
    issue = plan_channel(replace(TERMS, epoch=2), current, 0, PAIR, NOW)
    assert isinstance(issue, Issue)
    assert (issue.epoch, issue.seq) == (2, 5)


def test_the_shipped_policy_promotes_automatically() -> None:
    policy = load_policy(POLICY)
    assert policy == PromotionPolicy(Mode.AUTOMATIC, policy.gates, ChannelTerms())
    assert policy.gates == Gates(
        drill_max_age_days=30, drill_rto_ms_max=policy.gates.drill_rto_ms_max, provenance=(Origin.DVC_LOCK,)
    )
    assert policy.gates.drill_rto_ms_max is not None


WHENCE = Provenance("c0ffee", "ab" * 32, ("ada@example.org",))
TWO_PEOPLE = PromotionPolicy(Mode.MANUAL, Gates(separate_duties=True))


@pytest.mark.parametrize(
    ("wanted", "known", "missing"),
    [
        ((Origin.GIT_COMMIT,), Provenance(None, "ab" * 32), ["git_commit"]),
        ((Origin.DVC_LOCK,), Provenance("c0ffee", None), ["dvc_lock"]),
        ((Origin.GIT_COMMIT, Origin.DVC_LOCK), Provenance(), ["git_commit", "dvc_lock"]),
        ((Origin.GIT_COMMIT, Origin.DVC_LOCK), WHENCE, []),
        ((Origin.GIT_COMMIT,), replace(WHENCE, dvc_lock_sha256=None), []),
    ],
)
def test_a_pair_of_unknown_origin_is_refused_and_what_is_missing_is_named(
    wanted: tuple[Origin, ...], known: Provenance, missing: list[str]
) -> None:
    verdict = decide(PromotionPolicy(Mode.MANUAL, Gates(provenance=wanted)), replace(FACTS, provenance=known))
    assert isinstance(verdict, Refuse) == bool(missing)
    (gate,) = (gate for gate in verdict.gates if gate.name == "provenance")
    assert all(one in gate.finding for one in missing)


@pytest.mark.parametrize(
    ("builders", "approver", "passes"),
    [
        (("ada@x",), "bob@x", True),
        (("ada@x",), "ada@x", False),
        (("ada@x",), " ADA@X ", False),
        (("ada@x", "bob@x"), "bob@x", False),
        ((), "bob@x", False),
        (("ada@x",), None, False),
    ],
)
def test_whoever_built_either_bundle_does_not_promote_the_pair(
    builders: tuple[str, ...], approver: str | None, passes: bool
) -> None:
    facts = replace(FACTS, provenance=Provenance(builders=builders), approver=approver)
    assert isinstance(decide(TWO_PEOPLE, facts), Promote) == passes
    assert isinstance(decide(POLICY_NOW, facts), Promote), "nobody is asked unless the policy does"


def test_a_policy_by_which_the_builder_would_promote_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"gates\.separate_duties.*mode: manual"):
        parse_policy("mode: automatic\ngates: {separate_duties: true}", "promotion.yaml")


CHRISTMAS = Freeze("2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z", "the end of the year")
WEEKEND = Freeze("Fri 16:00", "Mon 06:00", "nobody is here")


@pytest.mark.parametrize(
    ("freeze", "now", "ends"),
    [
        (CHRISTMAS, "2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z"),
        (CHRISTMAS, "2027-01-01T23:59:59Z", "2027-01-02T00:00:00Z"),
        (CHRISTMAS, "2027-01-02T00:00:00Z", None),
        (CHRISTMAS, "2026-12-19T23:59:59Z", None),
        (WEEKEND, "2026-11-20T15:59:59Z", None),
        (WEEKEND, "2026-11-20T16:00:00Z", "2026-11-23T06:00:00Z"),
        (WEEKEND, "2026-11-22T12:00:00Z", "2026-11-23T06:00:00Z"),
        (WEEKEND, "2026-11-23T05:59:59Z", "2026-11-23T06:00:00Z"),
        (WEEKEND, "2026-11-23T06:00:00Z", None),
        (Freeze("Tue 09:00", "Tue 17:00", "the fair"), "2026-11-24T16:59:59Z", "2026-11-24T17:00:00Z"),
        (Freeze("Tue 09:00", "Tue 17:00", "the fair"), "2026-11-25T12:00:00Z", None),
    ],
)
def test_a_freeze_holds_from_its_beginning_to_before_its_end(freeze: Freeze, now: str, ends: str | None) -> None:
    moment = freeze.ends_at(from_text(now))
    assert (None if moment is None else to_text(moment)) == ends


@given(
    since=st.integers(0, 7 * 1440 - 1),
    minutes=st.integers(1, 7 * 1440 - 1),
    now=st.integers(0, 5 * 7 * 1440),
)
def test_a_weekly_freeze_is_what_counting_every_minute_says(since: int, minutes: int, now: int) -> None:
    monday = datetime(2026, 11, 2, tzinfo=UTC)
    freeze = Freeze(_of_week(since), _of_week((since + minutes) % (7 * 1440)), "because")
    left = next((one for one in range(7 * 1440 + 1) if (now + one - since) % (7 * 1440) >= minutes), 0)
    ends = freeze.ends_at(monday + timedelta(minutes=now))
    assert ends == (monday + timedelta(minutes=now + left) if left else None)


def _of_week(minute: int) -> str:
    day, rest = divmod(minute, 1440)
    return f"{('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun')[day]} {rest // 60:02}:{rest % 60:02}"


def test_in_a_freeze_another_pair_is_refused_with_its_reason_and_its_end_and_the_same_pair_is_renewed() -> None:
    policy = replace(
        POLICY_NOW, freeze=(CHRISTMAS, WEEKEND, Freeze("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z", "x"))
    )
    frozen = replace(FACTS, now=from_text("2026-12-26T12:00:00Z"))
    refused = decide(policy, frozen)
    assert isinstance(refused, Refuse)
    assert refused.reasons == (
        "freeze: the end of the year; it ends at 2027-01-02T00:00:00Z",
        "freeze: nobody is here; it ends at 2026-12-28T06:00:00Z",
    )
    assert isinstance(decide(policy, replace(frozen, in_force=PAIR)), Promote)
    assert isinstance(decide(policy, replace(frozen, in_force=Pair(PAIR.backup, PAIR.primary))), Refuse)
    assert isinstance(decide(policy, FACTS), Refuse), "1 November 2026 is a Sunday"
    assert isinstance(decide(policy, replace(FACTS, now=from_text("2026-11-04T12:00:00Z"))), Promote)


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
