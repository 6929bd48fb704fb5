"""What a drill leaves: read back the same, well-formed, and honest about the worst repeat."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from drilled import IDS, KILL, WRONG, kill, made_up, wrong

from pipeline.bundle.attestation import DrillStatement
from pipeline.core import recipe as recipes
from pipeline.core.canonical import sha256_hex
from pipeline.core.names import Role
from pipeline.core.schema import read
from pipeline.drill.junit import junit_xml
from pipeline.drill.nouns import Objectives, Observed
from pipeline.drill.results import (
    DrillReport,
    examined,
    hold,
    metrics,
    statement_of,
    tightened,
)
from pipeline.drill.script import parse_script

NO_MORE = recipes.Objectives()


@pytest.fixture(scope="module")
def report() -> DrillReport:
    return made_up()


def test_a_report_is_read_back_as_it_was(report: DrillReport) -> None:
    assert read(DrillReport, json.loads(report.to_bytes())) == report


def test_equal_reports_have_equal_bytes() -> None:
    assert made_up().to_bytes() == made_up().to_bytes()


def test_one_failed_drill_fails_the_run_and_names_each_miss(report: DrillReport) -> None:
    assert [result.passed for result in report.results] == [True, False]
    assert not report.passed
    assert any("corrupt-weights: lost_max" in miss and "(repeat 1)" in miss for miss in report.misses)


def test_the_worst_repeat_is_the_one_shown(report: DrillReport) -> None:
    for result in report.results:
        most = max(one.measures.wrong for one in result.repeats)
        assert result.shown.measures.wrong == most
        assert result.observed.requests


def test_repeats_draw_their_load_anew() -> None:
    seen = []
    hold([KILL], 3, lambda script, number: seen.append((script.load.seed, number)) or kill(script))
    assert seen == [(7, 0), (8, 1), (9, 2)]


def test_the_text_that_is_kept_is_the_script_that_was_played(report: DrillReport) -> None:
    for script, result in zip((KILL, WRONG), report.results, strict=True):
        assert parse_script(result.text, script.name) == script


def test_an_objective_of_the_model_binds_where_the_script_asks_for_less() -> None:
    asked = tightened(Objectives(lost_max=5, rto_ms_max=None), recipes.Objectives(lost_max=9, rto_ms_max=80.0))
    assert (asked.lost_max, asked.rto_ms_max, asked.wrong_max) == (5, 80.0, 0)
    asked = {KILL.name: recipes.Objectives(redundancy_ms_max=10.0)}
    (result, other) = hold([KILL, replace(KILL, name="other")], 1, lambda script, _: kill(script), asked)
    assert not result.passed
    assert result.misses[0].startswith("redundancy_ms_max")
    assert other.passed, "what a recipe asks holds for the drills that it lists"


def test_a_transcript_that_differs_fails_and_says_where() -> None:
    said = examined(KILL, kill(KILL), NO_MORE).transcript
    assert examined(replace(KILL, transcript=said), kill(KILL), NO_MORE).verdict.passed
    verdict = examined(replace(KILL, transcript=said + "\nand more"), kill(KILL), NO_MORE).verdict
    assert not verdict.passed
    assert "'nothing' where 'and more' is expected" in verdict.misses[0]


def test_what_a_model_asks_beyond_a_script_changes_no_line_of_its_transcript() -> None:
    open_minded = replace(KILL, objectives=Objectives(lost_max=None, wrong_max=None))
    said = examined(open_minded, kill(KILL), NO_MORE).transcript
    strict = recipes.Objectives(lost_max=0, wrong_max=0)
    assert examined(replace(open_minded, transcript=said), kill(KILL), strict).verdict.passed


def test_metrics_are_plain_figures_by_name(report: DrillReport) -> None:
    told = metrics(report)
    assert told["drills"] == 2
    assert told["drills_passed"] == 1
    assert told["rto_ms_p95"] == pytest.approx(report.rto_ms_p95, abs=0.001)
    assert told["by_drill"]["corrupt-weights"]["wrong"] == sum(one.measures.wrong for one in report.results[1].repeats)
    json.dumps(told, allow_nan=False)


def test_service_that_never_came_back_has_no_time_to_restore() -> None:
    never = replace(
        kill(KILL), requests=tuple(replace(one, done_ms=None, outcome="lost") for one in kill(KILL).requests)
    )
    report = made_up(1, (KILL,))
    report = replace(report, results=hold([KILL], 1, lambda *_: never))
    assert report.rto_ms_p95 is None
    assert metrics(report)["unrestored"] == 1
    assert "rto_ms_p95" not in metrics(report)
    assert statement_of(report).predicate.rto_ms_p95 is None


def test_junit_is_well_formed_and_counts_as_a_ci_server_does(report: DrillReport) -> None:
    suite = ET.fromstring(junit_xml(report)).find("testsuite")  # noqa: S314 - our own
    cases = suite.findall("testcase")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert [case.find("failure") is not None for case in cases] == [False, True]
    assert "wrong_max" in cases[1].find("failure").get("message")
    assert "kill primary" in cases[0].find("system-out").text


def test_a_drill_that_could_not_be_played_is_an_error_and_no_pass() -> None:
    needs_root = Observed("live", (), (), (), left_out="it needs root \x1b[31m")
    report = replace(made_up(1, (KILL,)), results=hold([KILL], 1, lambda *_: needs_root))
    suite = ET.fromstring(junit_xml(report)).find("testsuite")  # noqa: S314 - our own
    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    assert "needs root" in suite.find("testcase/error").get("message")
    assert not report.passed


def test_the_statement_is_about_both_bundles_and_this_very_report(report: DrillReport) -> None:
    statement = statement_of(report)
    assert read(DrillStatement, _without_type(statement)) == statement
    assert [statement.bundle_id(role) for role in Role] == [IDS[role] for role in Role]
    told = statement.predicate
    assert told.report_sha256 == sha256_hex(report.to_bytes())
    assert [one.passed for one in told.drills] == [True, False]
    assert told.drills[0].script_sha256 == sha256_hex(report.results[0].text.encode())
    assert told.drills[1].wrong == 26


def _without_type(statement: DrillStatement) -> dict:
    return {key: item for key, item in json.loads(statement.to_bytes()).items() if key != "_type"}


def test_open_ends_become_the_loads_end() -> None:
    calm = replace(KILL, strikes=())
    measures = examined(calm, wrong(KILL), NO_MORE).measures
    assert all(0 <= span.since_ms <= span.until_ms <= 3000 for span in measures.spans)
