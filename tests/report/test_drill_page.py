"""The page of a drill: all that an auditor asks for, nothing loaded from elsewhere, small, and escaped."""

import re
from dataclasses import replace

import pytest
from drilled import KILL, kill, made_up

from pipeline.core.names import Role
from pipeline.drill.flow import PLACES, flow_chart
from pipeline.drill.nouns import FaultKind, Observed, Outcome, Strike
from pipeline.drill.results import DrillReport, hold
from pipeline.report.drill_page import Signed, render_drill
from pipeline.report.flow_drawing import ROUTES, draw_flow
from pipeline.report.timeline import timeline

BYTES_MAX = 2_000_000
FIELDS = (
    "Purpose", "Scope", "Objectives", "Participants", "Date and place", "Scenario", "Injects", "Observations",
    "Results against objectives", "Findings", "Recommendations and improvement plan", "Sign-off",
)  # fmt: skip


@pytest.fixture(scope="module")
def report() -> DrillReport:
    return made_up()


@pytest.fixture(scope="module")
def page(report: DrillReport) -> str:
    return render_drill(report, Signed("ab" * 32, "cd" * 32))


def test_the_page_loads_nothing_from_elsewhere(page: str) -> None:
    assert re.findall(r"<(?:script|link|img|iframe|object|embed|base)\b", page) == []
    assert re.findall(r"url\((?!#)", page) == []
    assert set(re.findall(r"https?://[^\"\'<> ]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page


@pytest.mark.parametrize("field", FIELDS)
def test_the_page_has_every_field_of_an_after_action_report(page: str, field: str) -> None:
    assert re.search(rf">{field}</(?:th|h3|h2)>", page)


def test_what_comes_from_recipes_scripts_and_logs_is_escaped(page: str) -> None:
    for text in ("Credit default &lt;within a month&gt;", "twenty &lt;wrong&gt;", "&lt;b&gt;beyond&lt;/b&gt;"):
        assert text in page
    assert "<b>beyond" not in page


def test_a_title_cannot_turn_the_words_after_it_round(report: DrillReport) -> None:
    page = render_drill(replace(report, title="\u202edessap\x1b[2J", participants=("\u2066Eve",)))
    assert "\u202e" not in page and "\u2066" not in page and "\x1b" not in page
    assert r"\u202edessap\x1b[2J" in page


def test_verdicts_are_words_and_not_colours_alone(page: str) -> None:
    verdicts = re.findall(r'class="verdict (met|missed)">(\w+)<', page)
    assert {"met", "missed"} == {kind for kind, _ in verdicts}
    assert all(word == ("passed" if kind == "met" else "failed") for kind, word in verdicts)


def test_every_id_is_given_once_and_every_reference_leads_somewhere(page: str) -> None:
    given = re.findall(r'\bid="([^"]+)"', page)
    assert len(given) == len(set(given))
    referred = re.findall(r'(?:href="#|url\(#)([\w-]+)', page)
    assert referred
    assert set(referred) <= set(given)


def test_each_missed_objective_is_told_once_with_how_often(page: str) -> None:
    assert "corrupt-weights: lost_max: 6 &gt; 0 (in 3 of 3 repeats)" in page
    assert page.count("<li>corrupt-weights: lost_max") == 2  # at the top, and among the findings


def test_the_page_says_who_signed_or_that_nobody_did(report: DrillReport, page: str) -> None:
    assert "cd" * 32 in page
    assert "was not attested" in render_drill(report)


def test_equal_reports_give_equal_pages(page: str) -> None:
    assert render_drill(made_up(), Signed("ab" * 32, "cd" * 32)) == page


def test_a_drill_that_could_not_be_played_says_why(report: DrillReport) -> None:
    results = hold([KILL], 1, lambda *_: Observed("live", (), (), (), left_out="mounts need root"))
    text = render_drill(replace(report, results=results))
    assert "Not played here" in text
    assert "mounts need root" in text


def test_the_drawing_stays_small_however_many_requests_there_were() -> None:
    long = replace(KILL, load=replace(KILL.load, seconds=300.0))
    observed = kill(long)
    assert len(observed.requests) > 25_000
    assert len(timeline("k", observed, (), 300_000.0, observed.moments)) < BYTES_MAX / 8


def test_a_flapping_pair_does_not_fill_the_page_with_its_events(report: DrillReport) -> None:
    calm = kill(KILL)
    moments = calm.moments[:1] + calm.moments[1:] * 200
    text = render_drill(replace(report, results=hold([KILL], 1, lambda *_: replace(calm, moments=moments))))
    assert "more are in drill.json" in text
    assert len(text.encode()) < BYTES_MAX


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("role", [None, *Role])
def test_each_outcome_by_each_role_has_a_mark_and_a_legend(outcome: Outcome, role: Role | None) -> None:
    calm = kill(KILL)
    requests = tuple(replace(one, outcome=outcome, role=role) for one in calm.requests[:5])
    drawn = timeline("k", replace(calm, requests=requests), (), 3000.0, ())
    names = {
        "right": "answered",
        "wrong": "wrong answer",
        "lost": "lost",
        "abstained": "withheld",
        "refused": "refused",
    }
    assert names[outcome.value] in drawn


@pytest.mark.parametrize(
    "observed",
    [
        Observed("live", (), (), ()),
        replace(kill(KILL), requests=()),
        replace(kill(KILL), serving=()),
        replace(kill(KILL), moments=()),
    ],
)
def test_a_timeline_of_hardly_anything_is_drawn(observed: Observed) -> None:
    assert timeline("k", observed, (), 0.0, observed.moments).startswith("<svg")


def test_every_arrow_of_the_flow_has_its_place_in_the_drawing() -> None:
    flow = flow_chart(KILL, kill(KILL))
    assert {(step.source, step.target) for step in flow.steps} == set(ROUTES)
    drawn = draw_flow("k", flow)
    assert all(name in drawn for name in PLACES.values())
    assert drawn.count('stroke-width="2.6"') == len(flow.taken)


def test_taken_arrows_tell_their_times() -> None:
    drawn = draw_flow("k", flow_chart(KILL, kill(KILL)))
    assert "700\u00a0ms after" in drawn


def test_every_fault_is_named_in_words(report: DrillReport) -> None:
    strikes = tuple(Strike(100 + number, fault) for number, fault in enumerate(FaultKind))
    script = replace(KILL, strikes=strikes)
    assert "clock set back" in render_drill(replace(report, results=hold([script], 1, lambda *_: kill(KILL))))
