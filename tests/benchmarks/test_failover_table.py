"""An answer is judged by the bundle that gave it, and a target that is missed is said to be missed."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import failover
import failover_table
import faults
import runs

from pipeline.core.names import Role
from pipeline.core.schema import plain
from pipeline.drill.live import judging
from pipeline.drill.live.plan import Exchange
from pipeline.drill.nouns import Outcome

RIGHT = {"primary": np.array([[0.1], [0.2]], np.float32), "backup": np.array([[0.15], [0.25]], np.float32)}
REFERENCES = {
    role: judging.Reference(role, Role(role), "m", {"p": outputs}, {"p": 0.01}) for role, outputs in RIGHT.items()
}
ROWS = {"x": np.zeros((2, 3), np.float32)}
QUESTIONS = judging.Questions("m", ROWS, ("a", "b"), REFERENCES)
CONTROL, KILL, NAN = (next(case for case in faults.CASES if case.name == name) for name in ("control", "kill", "nan"))


def answer(value: float, bundle: str = "primary", question: int = 0, term: int = 1, **changes: object) -> Exchange:
    body = json.dumps({"outputs": [{"name": "p", "shape": [1, 1], "datatype": "FP32", "data": [value]}]})
    headers = {judging.BUNDLE_HEADER: bundle, judging.ROLE_HEADER: bundle, judging.TERM_HEADER: str(term)}
    return replace(Exchange(question, 0.0, 0.1, 2.0, 200, headers, body), **changes)


@pytest.mark.parametrize(
    ("exchange", "verdict"),
    [
        (answer(0.1), Outcome.RIGHT),
        (answer(0.109), Outcome.RIGHT),
        (answer(0.12), Outcome.WRONG),
        (answer(0.1, question=1), Outcome.WRONG),
        (answer(0.15, "backup"), Outcome.RIGHT),
        (answer(0.15), Outcome.WRONG),  # the backup's answer under the primary's name
        (answer(0.1, "unknown"), Outcome.WRONG),
        (answer(0.1, body="{"), Outcome.WRONG),
        (answer(0.1, body='{"outputs": []}'), Outcome.WRONG),
        (answer(0.1, body=answer(0.1).body.replace("[0.1]", "[null]")), Outcome.WRONG),
        (answer(0.1, body=answer(0.1).body.replace("[0.1]", "[NaN]")), Outcome.WRONG),
        (answer(0.1, body=answer(0.1).body.replace("[1, 1]", "[1]")), Outcome.WRONG),
        (answer(0.1, body=answer(0.1).body.replace("FP32", "FP64")), Outcome.WRONG),  # a client would read other bytes
        (answer(0.1, body=answer(0.1).body.replace("FP32", "INT8").replace("0.1", "300")), Outcome.WRONG),
        (answer(0.1, status=503, headers={judging.REFUSED_HEADER: "abstained"}), Outcome.ABSTAINED),
        (answer(0.1, status=503, headers={judging.REFUSED_HEADER: "unavailable"}), Outcome.LOST),
        (answer(0.1, status=503, body="<html>"), Outcome.LOST),
        (answer(0.1, status=422), Outcome.REFUSED),
        (answer(0.1, status=429), Outcome.LOST),
        (answer(0.1, status=0), Outcome.LOST),
    ],
)
def test_an_answer_is_held_against_the_bundle_that_gave_it(exchange, verdict):
    assert judging.outcome(exchange, QUESTIONS) is verdict


def test_poison_may_only_be_refused():
    poison = answer(0.1, question=2)
    assert judging.judge_all([poison, replace(poison, status=422)], QUESTIONS) == [Outcome.WRONG, Outcome.REFUSED]


def test_an_answer_of_an_old_term_that_was_asked_for_after_a_new_one_came_is_stale():
    new = answer(0.15, "backup", term=2, sent_ms=1.0, done_ms=5.0)
    early, late = answer(0.1, sent_ms=4.0, done_ms=9.0), answer(0.1, sent_ms=6.0, done_ms=9.0)
    assert judging.stale([new, early]) == 0
    assert judging.stale([new, early, late]) == 1


def test_downtime_is_the_longest_stretch_without_a_right_answer():
    exchanges = [replace(answer(0.1), scheduled_ms=10.0 * n) for n in range(8)]
    verdicts = [Outcome.RIGHT, Outcome.LOST, Outcome.RIGHT, *[Outcome.LOST] * 3, Outcome.RIGHT, Outcome.LOST]
    assert judging.downtime_ms(exchanges, verdicts) == 30.0


def test_downtime_that_never_ends_lasts_as_long_as_anybody_asked():
    exchanges = [replace(answer(0.1), scheduled_ms=10.0 * n) for n in range(8)]
    assert judging.downtime_ms(exchanges, [Outcome.RIGHT, *[Outcome.LOST] * 7]) == 60.0


def run(case: str = "kill", system: str = "hotspare", worst_ms: float = 20.0, **changes: object) -> runs.Run:
    tally = judging.tally([answer(0.1, done_ms=worst_ms)], [Outcome.RIGHT])
    named = () if case == "control" else ("process",)
    made = runs.Run("code", system, case, 0, 900.0, tally, 12.0, 1, named, ("killed",), int(case != "control"), 300.0)
    return replace(made, **changes)


def missed(*found: runs.Run) -> list[str]:
    (line,) = [one for one in failover_table.lines([KILL], found) if one.case is KILL]
    return list(failover_table.misses(line))


def test_a_worst_answer_is_held_against_its_target_plus_the_control():
    assert missed(run(worst_ms=34.0)) == ["worst answer 34 > 30 + 0 ms"]
    assert missed(run(worst_ms=34.0), run("control", worst_ms=5.0)) == []
    assert missed(run(worst_ms=34.0), run("control", "haproxy", worst_ms=5.0)) == ["worst answer 34 > 30 + 0 ms"]


def test_lost_wrong_and_stale_answers_and_flapping_are_told():
    tally = replace(run().tally, lost=1, wrong=2, stale=3)
    assert missed(run(), run(tally=tally, failovers=4)) == [
        "lost 1 > 0 in a run", "wrong 2 > 0 in a run", "3 of an old term", "failovers 4 > 1",
    ]  # fmt: skip


def test_what_was_never_evicted_misses_a_target_for_evictions():
    case = replace(KILL, target=faults.Target(evict_ms=100.0))
    (line,) = failover_table.lines([case], [run(), run(evicted_ms=130.0), run(evicted_ms=None)])
    assert list(failover_table.misses(line)) == ["evicted after 130 > 100 ms", "not evicted in 1 runs"]


def test_a_diagnosis_is_right_when_it_names_every_faulty_component_and_no_other():
    found = [run(), run(components=("process", "resource")), run(components=()), run("control")]
    assert failover_table.named(list(failover_table.lines([CONTROL, KILL], found))) == (1, 3)


def test_a_fault_that_left_no_trace_does_not_hold_though_nothing_was_lost():
    nothing = replace(NAN, target=faults.Target())
    silent = [run("nan", components=(), evicted_ms=None, failovers=0) for _ in range(10)]
    named = [run(seed=seed) for seed in range(230)]
    assert failover_table.show([nothing, KILL], [*silent, *named]) == 1
    (line,) = failover_table.lines([nothing], silent)
    assert list(failover_table.misses(line)) == ["not noticed in 10 runs"]
    (theirs,) = failover_table.lines([nothing], [replace(one, system="haproxy") for one in silent])
    assert list(failover_table.misses(theirs)) == []  # it names nothing, whatever happens


def test_what_a_pair_cries_before_anything_was_done_is_told_and_its_diagnosis_is_not_right():
    alarmed = run(false_alarms=2)
    assert missed(alarmed, run()) == ["2 false alarms before the fault"]
    assert failover_table.named(list(failover_table.lines([KILL], [alarmed, run()]))) == (1, 2)


def test_what_was_said_before_the_fault_counts_as_a_false_alarm_alone(tmp_path, monkeypatch):
    system = failover.Hotspare(failover.PairFiles(tmp_path, tmp_path, tmp_path), tmp_path)
    monkeypatch.setattr(system, "status", dict)
    (tmp_path / "server.log").touch()
    facts = {"component": "engine", "fault": "hang", "seat": "primary-0"}
    system.seen = [failover.Seen(at_s, facts) for at_s in (9.0, 11.0)]
    system.seen.append(failover.Seen(9.1, {"event": "the backup takes over from the primary (term 2)"}))
    told = failover._told(system, 10.0, run(components=(), evictions=0))
    assert (told.components, told.evictions, told.failovers, told.false_alarms) == (("engine",), 1, 0, 2)


def test_the_table_says_what_was_left_out_and_shows_every_line(capsys):
    found = [run(), run("control"), run("control", "haproxy"), run(skipped="no root")]
    assert failover_table.show([CONTROL, KILL], found) == 0
    assert "kill: no root" in capsys.readouterr().out
    text = failover_table.markdown([CONTROL, KILL], found)
    assert text.count("| holds |") == 3
    assert "1 of 1 runs" in text
    assert "else no fault: failovers_max 0; kill -9: worst_ms 30." in text


def test_the_manual_tells_what_every_line_of_the_table_is_held_against():
    manual = Path(__file__).parents[2] / "docs" / "runtime.md"
    assert f"- {failover_table.targets(faults.CASES)}\n" in manual.read_text()


def test_runs_are_read_again_and_half_a_line_or_another_code_or_what_was_left_out_is_not(tmp_path):
    broken = run(broken="The pair's start did not happen")
    lines = [json.dumps(plain(one)) for one in (run(), broken, run(made_of="other"), run(skipped="no HAProxy"))]
    (tmp_path / "runs.jsonl").write_text("\n".join([*lines, lines[0][:40]]))
    assert runs.known_runs(tmp_path / "runs.jsonl", "code") == [run(), broken]


def test_runs_of_another_load_pair_or_machine_are_not_taken_for_this_campaigns(monkeypatch):
    one = failover.made_of(QUESTIONS, 100.0, 3.0)
    assert one == failover.made_of(QUESTIONS, 100.0, 3.0)
    other_pair = replace(QUESTIONS, references={"other": REFERENCES["primary"]})
    others = [(QUESTIONS, 50.0, 3.0), (QUESTIONS, 100.0, 9.0), (other_pair, 100.0, 3.0)]
    others.append((replace(QUESTIONS, bodies=("a", "c")), 100.0, 3.0))
    made = {failover.made_of(*other) for other in others}
    monkeypatch.setattr(failover, "machine_facts", lambda: {"processor": "another"})
    assert len({one, *made, failover.made_of(QUESTIONS, 100.0, 3.0)}) == 6


def test_a_system_that_breaks_during_a_run_does_not_hold():
    assert missed(run(), run(broken="The pair's start did not happen")) == ["1 runs broken"]
    assert missed(run(tracebacks=1)) == ["tracebacks in the server's log"]


def test_hedges_count_once_the_fault_is_dealt_with():
    (line,) = failover_table.lines([CONTROL], [run("control", steady_hedges=6, steady_sent=100)])
    assert list(failover_table.misses(line)) == ["steady hedges 6.0% > 5%"]
    (line,) = failover_table.lines([CONTROL], [run("control", steady_hedges=5, steady_sent=100)])
    assert list(failover_table.misses(line)) == []
