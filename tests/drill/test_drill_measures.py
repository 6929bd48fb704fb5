"""Measures, verdict, localisation and transcript of plays that were made by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played import KILLED, calm, killed, lost, moment, request, script, struck

from pipeline.core.errors import UsageError
from pipeline.core.names import Role
from pipeline.core.schema import plain, read
from pipeline.drill.measures import Measures, measure
from pipeline.drill.nouns import MomentKind, Observed, Outcome
from pipeline.drill.script import parse_script
from pipeline.drill.simulated.world import simulate
from pipeline.drill.transcript import transcript
from pipeline.drill.verdict import judge
from pipeline.runtime.members import Component

DETECTED = MomentKind.DETECTED


def quiet(text: str, moments: tuple = (), requests: dict | None = None) -> tuple:
    played = Observed("live", tuple((calm() | (requests or {})).values()), moments, ((0.0, Role.PRIMARY, 1),))
    return script(text), played


def test_times_are_counted_from_when_it_was_really_struck() -> None:
    measures = measure(script(), killed())
    (one,) = measures.strikes
    assert (one.at_ms, one.mttd_ms, one.switch_ms, one.redundancy_ms) == (501.0, 5.0, 0.0, 100.0)
    assert (measures.mttd_ms, measures.redundancy_ms, measures.unnoticed, measures.failovers) == (5.0, 100.0, 0, 1)
    assert measures.localisation == 1.0


def test_time_to_switch_is_from_the_diagnosis_to_the_failover() -> None:
    moments = (struck(500), moment(620, DETECTED, Component.ENGINE), moment(650, MomentKind.FAILOVER))
    observed = replace(killed(), moments=moments)
    (one,) = measure(script("# r\nload constant 100/s for 2s\nat 500ms hang primary"), observed).strikes
    assert (one.mttd_ms, one.switch_ms) == (120.0, 30.0)


def test_no_request_that_noticed_is_no_time_to_recover() -> None:
    measures = measure(script(), killed())
    assert (measures.rto_ms, measures.lost, measures.late, measures.sent) == (0.0, 0, 0, 200)
    assert measures.worst_ms == 40.0


def test_time_to_recover_ends_with_the_first_right_answer_after_the_last_that_was_not() -> None:
    requests = {50: lost(50), 51: request(51), 52: lost(52)}
    assert measure(script(), killed(requests=requests)).rto_ms == pytest.approx(535 - 501)


def test_a_request_that_was_in_flight_when_it_struck_counts() -> None:
    measures = measure(script(), killed(requests={45: lost(45)}))
    assert measures.rto_ms > 0
    assert measure(script(), killed(requests={45: request(45, 10)})).rto_ms == 0


def test_late_answers_belong_to_an_incident_only_near_it() -> None:
    late = {number: request(number, 150) for number in (52, 53)}
    assert measure(script(), killed(requests=late)).rto_ms == pytest.approx(545 - 501)
    long_after = measure(script(), killed(requests={180: request(180, 150)}))
    assert (long_after.rto_ms, long_after.late) == (0.0, 1)
    assert measure(script(), killed(requests={180: lost(180)})).rto_ms > 1000


def test_what_was_late_in_the_calm_already_is_not_felt() -> None:
    late = {52: request(52, 150)}
    assert measure(script(), killed(requests=late | {20: request(20, 140)})).rto_ms > 0
    assert measure(script(), killed(requests=late | {20: request(20, 160)})).rto_ms == 0


def test_a_fault_that_nobody_has_noticed_is_felt_as_long_as_answers_are_late() -> None:
    text = "# r\nload constant 100/s for 2s\nat 500ms slow primary ms=150"
    late = {number: request(number, 155) for number in range(50, 150, 20)}
    assert measure(*quiet(text, (struck(500),), late)).rto_ms == pytest.approx(1315 - 500)
    noticed = (struck(500), moment(520, DETECTED, Component.ENGINE))
    assert measure(*quiet(text, noticed, late)).rto_ms == pytest.approx(515 - 500)


def test_service_that_never_comes_back_misses_every_time_to_recover() -> None:
    measures = measure(script(), killed(requests={number: lost(number) for number in range(50, 200)}))
    assert measures.unrestored == 1
    assert measures.strikes[0].rto_ms is None
    assert (
        "rto_ms_max: 1 of 1 strikes not restored before the load ended" in judge(script().objectives, measures).misses
    )


def test_a_standby_that_never_comes_back_is_said() -> None:
    measures = measure(script(), killed(moments=KILLED[:-1]))
    assert (measures.redundancy_ms, measures.unredundant) == (None, 1)
    asked = replace(script().objectives, redundancy_ms_max=1e6)
    assert judge(asked, measures).missed == ("redundancy_ms_max",)


def test_a_fault_of_the_standby_is_not_timed_by_a_later_failover() -> None:
    text = "# r\nload constant 100/s for 2s\nat 300ms kill backup\nat 501ms kill primary"
    moments = (struck(300), moment(310, DETECTED, Component.PROCESS, Role.BACKUP), struck(501, 1), *KILLED[1:])
    first, second = measure(script(text), killed(moments=moments)).strikes
    assert (first.mttd_ms, first.switch_ms, first.is_localised) == (10.0, None, True)
    assert (second.mttd_ms, second.switch_ms, second.is_localised) == (5.0, 0.0, True)


def test_a_fault_that_nobody_notices_is_counted() -> None:
    measures = measure(*quiet("# r\nload constant 100/s for 2s\nat 500ms hang primary", (struck(500),)))
    assert (measures.mttd_ms, measures.unnoticed, measures.localisation) == (None, 1, 0.0)
    asked = replace(script().objectives, mttd_ms_max=1e6)
    assert judge(asked, measures).misses == ("mttd_ms_max: 1 of 1 strikes never noticed",)


def test_what_is_no_member_s_fault_must_not_be_blamed_on_one() -> None:
    text = "# r\nload constant 100/s for 2s\nat 500ms registry-down"
    assert measure(*quiet(text)).localisation == 1.0
    blamed = measure(*quiet(text, (moment(700, DETECTED, Component.ENGINE),)))
    assert (blamed.localisation, blamed.strikes[0].unexplained) == (0.0, (Component.ENGINE,))
    said = measure(*quiet(text, (moment(700, DETECTED, Component.DEPENDENCY, None),)))
    assert said.localisation == 1.0


def test_a_crash_may_be_the_engine_s_until_the_request_is_found_guilty() -> None:
    text = "# r\nload constant 100/s for 2s\nat 500ms poison poison_requests=1"
    moments = (moment(520, DETECTED, Component.ENGINE), moment(560, DETECTED, Component.REQUEST, None))
    measures = measure(*quiet(text, moments))
    assert (measures.localisation, measures.mttd_ms) == (1.0, 20.0)
    assert measure(*quiet(text, moments[:1])).localisation == 0.0
    assert "diagnosed: poison request\n" in transcript(*quiet(text, moments))


def test_of_two_faults_at_once_each_needs_its_own_diagnosis() -> None:
    text = "# r\nload constant 100/s for 2s\nat 400ms tampered primary\nat 501ms kill primary"
    artifact = moment(700, DETECTED, Component.ARTIFACT)
    both = measure(script(text), killed(moments=(*KILLED[1:], artifact)))
    assert [one.is_localised for one in both.strikes] == [True, True]
    assert both.mttd_ms == 5.0  # what lies on disk unread cannot be noticed
    half = measure(script(text), killed(moments=KILLED[1:]))
    assert [one.is_localised for one in half.strikes] == [False, True]
    assert half.localisation == 0.5


def test_a_diagnosis_before_anything_was_struck_is_a_false_alarm() -> None:
    measures = measure(script(), killed(moments=(moment(100, DETECTED, Component.ENGINE), *KILLED)))
    assert (measures.false_alarms, measures.localisation) == (1, 1.0)
    assert not judge(replace(script().objectives, localisation_min=0.5), measures).passed


def test_answers_of_a_term_that_was_over_fail_every_drill() -> None:
    old = request(150, role=Role.PRIMARY, term=1)
    measures = measure(script(), killed(requests={150: old}))
    assert measures.stale == 1
    assert judge(script().objectives, measures).misses == ("stale: 1 answers of a term that was over > 0",)


def test_a_strike_that_could_not_be_done_proves_nothing() -> None:
    measures = measure(script(), killed(moments=(*KILLED, moment(502, MomentKind.UNDONE))))
    assert judge(script().objectives, measures).misses == ("struck: 1 of 1 strikes could not be done",)


def test_an_answer_that_was_sent_for_before_the_switch_is_not_stale() -> None:
    assert measure(script(), killed(requests={50: request(50, 90, term=1)})).stale == 0


def test_poison_must_fail_and_is_no_loss() -> None:
    extras = {
        900: replace(lost(60), is_extra=True),
        901: replace(request(61, 4, Outcome.REFUSED), is_extra=True),
        902: replace(request(62, 4, Outcome.WRONG), is_extra=True),
    }
    measures = measure(script(), killed(requests=extras))
    assert (measures.sent, measures.lost, measures.refused, measures.wrong, measures.rto_ms) == (200, 0, 2, 1, 0.0)


def test_the_budget_burnt_is_what_was_not_right_over_what_is_allowed() -> None:
    measures = measure(script(), killed(requests={60: lost(60), 61: request(61, 5, Outcome.WRONG)}), slo_ratio=0.99)
    assert measures.budget_burnt == pytest.approx(1.0)
    assert measure(script(), killed()).budget_burnt == 0


def test_a_question_that_nothing_is_wrong_with_is_lost_when_it_is_refused() -> None:
    """Both sides err, the pair holds the question to blame: a drill passed in which a tenth was not answered."""
    text = "# r\nload constant 100/s for 3s\nat 500ms errors primary\nat 500ms errors backup"
    both = parse_script(text, "both-err")
    observed = simulate(both, 0)
    refused = sum(one.outcome is Outcome.REFUSED for one in observed.requests)
    told = measure(both, observed)
    assert told.sent == told.right + told.lost
    assert told.lost == told.refused == refused > 0
    assert judge(both.objectives, told).missed == ("lost_max",)


@pytest.mark.parametrize("slo_ratio", [0.0, 1.0])
def test_an_objective_without_a_budget_is_refused(slo_ratio: float) -> None:
    with pytest.raises(UsageError, match="no budget"):
        measure(script(), killed(), slo_ratio=slo_ratio)


def test_degraded_answers_and_their_accuracy_are_measured() -> None:
    measures = measure(script(), killed(degraded_score=0.90, float_score=0.93))
    assert (measures.degraded, measures.accuracy_loss) == (150, pytest.approx(0.03))
    asked = replace(script().objectives, accuracy_loss_max=0.02)
    assert judge(asked, measures).missed == ("accuracy_loss_max",)
    assert judge(asked, measure(script(), killed())).missed == ("accuracy_loss_max",)  # not measured is not good
    assert judge(replace(asked, accuracy_loss_max=0.04), measures).passed


def test_before_during_and_after_hold_every_request_once() -> None:
    before, during, after = measure(script(), killed(requests={52: lost(52)})).spans
    assert (before.name, during.name, after.name) == ("before", "during", "after")
    assert before.sent + during.sent + after.sent == 200
    assert (before.lost, during.lost, after.lost) == (0, 1, 0)
    assert (during.since_ms, during.until_ms) == (501.0, 601.0)


def test_measures_survive_being_kept_as_json() -> None:
    measures = measure(script(), killed(requests={52: lost(52)}))
    assert read(Measures, plain(measures)) == measures


def test_what_could_not_be_played_has_not_passed() -> None:
    observed = Observed("live", (), (), (), left_out="it needs root")
    verdict = judge(script().objectives, measure(script(), observed))
    assert (verdict.passed, verdict.misses) == (False, ("played: it needs root",))
    assert transcript(script(), observed) == "not played: it needs root"


# The verdict is monotone.


@given(
    st.sampled_from(("lost", "wrong", "late", "refused", "abstained", "failovers", "unnoticed", "unrestored", "stale")),
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_more_of_what_is_bad_never_turns_a_miss_into_a_pass(figure: str, count: int, more: int, bound: int) -> None:
    asked = replace(
        script().objectives, lost_max=bound, wrong_max=bound, late_max=bound, refused_max=bound, failovers_max=bound,
        mttd_ms_max=50.0, abstained_ratio_max=bound / 300,
    )  # fmt: skip
    less = replace(measure(script(), killed()), **{figure: count})
    worse = replace(less, **{figure: count + more})
    assert judge(asked, less).passed or not judge(asked, worse).passed
    assert set(judge(asked, less).missed) <= set(judge(asked, worse).missed)


@given(
    st.sampled_from(("worst_ms", "p99_ms", "mttd_ms", "rto_ms", "redundancy_ms")), st.floats(0, 1e4), st.floats(0, 1e4),
    st.floats(0, 1e4),
)  # fmt: skip
def test_longer_times_and_tighter_bounds_never_turn_a_miss_into_a_pass(
    figure: str, took: float, more: float, bound: float
) -> None:
    measures = replace(measure(script(), killed()), **{figure: took})
    asked = replace(script().objectives, **{f"{figure}_max": bound})
    passed = judge(asked, measures).passed
    assert passed is (took <= bound)
    assert passed or not judge(asked, replace(measures, **{figure: took + more})).passed
    assert judge(replace(asked, **{f"{figure}_max": bound + more}), measures).passed or not passed
    assert judge(replace(asked, **{f"{figure}_max": None}), measures).passed


def test_every_miss_names_its_figure_and_its_bound() -> None:
    asked = replace(script().objectives, worst_ms_max=30.0, failovers_max=0, degraded_ratio_max=0.5)
    assert judge(asked, measure(script(), killed())).misses == (
        "failovers_max: 1 > 0",
        "degraded_ratio_max: 0.75 > 0.5",
        "worst_ms_max: 40 ms > 30 ms",
    )


# The transcript.


def test_a_transcript_holds_the_course_and_no_times() -> None:
    assert transcript(script(), killed()).split("\n") == [
        "serving: primary, backup",
        "diagnosed: primary process",
        "redundancy: lost, back",
        "lost 0, wrong 0",
        "verdict: passed",
    ]


def test_a_transcript_does_not_count_what_chance_decides() -> None:
    text = "# r\nload constant 100/s for 2s\nat 500ms kill primary\nexpect lost_max=any wrong_max=5"
    few = killed(requests={60: request(60, 5, Outcome.WRONG)})
    some = killed(requests={number: request(number, 5, Outcome.WRONG) for number in (60, 61)})
    assert transcript(script(text), few) == transcript(script(text), some)
    assert "\nwrong within 5\n" in transcript(script(text), few)


def test_a_transcript_shows_what_its_script_asks_for() -> None:
    text = "# r\nload constant 100/s for 2s\nat 500ms kill primary\nshows lost verdict"
    assert transcript(script(text), killed()) == "lost 0, wrong 0\nverdict: passed"


def test_coming_and_going_redundancy_is_told_by_how_it_ends() -> None:
    lost_again = (*KILLED, moment(700, MomentKind.REDUNDANCY_LOST, role=None))
    assert "redundancy: lost\n" in transcript(script(), killed(moments=lost_again))
    assert "redundancy: kept\n" in transcript(script(), killed(moments=KILLED[:2]))
    assert "verdict: missed lost_max" in transcript(script(), killed(requests={60: lost(60)}))
