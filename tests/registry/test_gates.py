from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.core.clock import from_text
from pipeline.core.names import Format, Role, Scheme
from pipeline.core.recipe import Diversity
from pipeline.registry.freezing import Freeze
from pipeline.registry.gates import Facts, Promote, Provenance, Refuse, Rehearsal, Standing, decide
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import Gates, Mode, Origin, PromotionPolicy

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PRIMARY = Standing(Role.PRIMARY, "aa" * 32, "dense.f16", Scheme.F16, Format.TFLITE, "cc" * 32, 0.001, 1.0, "11" * 32)
BACKUP = Standing(Role.BACKUP, "bb" * 32, "p50.w8", Scheme.W8, Format.TFLITE, "cc" * 32, 0.009, 1.4, "11" * 32)
PAIR = Pair("aa" * 32, "bb" * 32)
FACTS = Facts("credit", 0.01, (Diversity.SCHEME,), PRIMARY, BACKUP, NOW)
POLICY_NOW = PromotionPolicy(Mode.AUTOMATIC, Gates())
DRILLED = Rehearsal(PAIR, True, True, NOW - timedelta(days=2), 40.0)
ASKS_FOR_DRILL = PromotionPolicy(Mode.AUTOMATIC, Gates(drill_max_age_days=7, drill_rto_ms_max=250))
REVOKED = "22" * 32
WHENCE = Provenance("c0ffee", "ab" * 32, ("ada@example.org",))
TWO_PEOPLE = PromotionPolicy(Mode.MANUAL, Gates(separate_duties=True))
CHRISTMAS = Freeze("2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z", "the end of the year")
WEEKEND = Freeze("Fri 16:00", "Mon 06:00", "nobody is here")


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


@pytest.mark.parametrize("role", Role)
def test_a_bundle_of_a_revoked_key_is_refused_and_others_are_not(role: Role) -> None:
    facts = replace(FACTS, revoked_keys=(REVOKED,))
    assert isinstance(decide(POLICY_NOW, facts), Promote)
    old = replace(facts.standing(role), key_hint=REVOKED)
    refused = decide(POLICY_NOW, replace(facts, **{str(role): old}))
    assert isinstance(refused, Refuse)
    assert [reason.split(":")[0] for reason in refused.reasons] == [f"{role} key"]
    assert isinstance(decide(POLICY_NOW, replace(facts, revoked_keys=(), **{str(role): old})), Promote)


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
