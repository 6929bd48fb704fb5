"""Chaos Toolkit experiments and journals."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from played import killed, lost, script

from pipeline.core.errors import RecipeError
from pipeline.core.names import Role
from pipeline.drill.chaos_journal import experiment_of, journal
from pipeline.drill.chaos_toolkit import parse_experiment
from pipeline.drill.nouns import FaultKind, Objectives, Observed, Script, Strike
from pipeline.drill.script import load_scripts

SHIPPED = Path(__file__).parents[2] / "recipes" / "drills"
BEGAN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def python(func: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "python", "module": "hotspare.drill", "func": func, "arguments": arguments}


def action(provider: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "action", "name": "break it", "provider": provider, **more}


def probe(func: str, tolerance: Any) -> dict[str, Any]:
    return {"type": "probe", "name": func, "tolerance": tolerance, "provider": python(func)}


def experiment(*method: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": "1.0.0", "title": "It  holds.", "description": "as\nsaid", "method": list(method), **more}


def read(one: object) -> Script:
    return parse_experiment(json.dumps(one), "x")


def problems(one: object) -> list[str]:
    with pytest.raises(RecipeError) as refused:
        read(one)
    first, *rest = str(refused.value).split("\n  - ")
    assert first.startswith(f"x: {len(rest)} problem(s)")
    return rest


def test_actions_strike_when_their_pauses_say_after_a_calm_start() -> None:
    method = (
        action(python("kill", target="primary"), pauses={"after": 0.25}),
        action(python("wrong_answers", target="backup", bias=-0.5, for_ms=200), pauses={"before": 0.05}),
        action(python("stop", target="backup", for_ms=100), background=True),
        action(python("registry_down")),
    )
    found = read(experiment(*method))
    assert found.strikes == (
        Strike(500, FaultKind.KILL, Role.PRIMARY),
        Strike(800, FaultKind.WRONG_ANSWERS, Role.BACKUP, 200, (("bias", -0.5),)),
        Strike(1000, FaultKind.STOP, Role.BACKUP, 100),  # the one before it held the method up
        Strike(1000, FaultKind.REGISTRY_DOWN),
    )
    assert (found.rule, found.comments, found.load.seconds) == ("It holds.", ("as", "said"), 3.0)
    assert found.objectives == Objectives()


@pytest.mark.parametrize(
    "arguments",
    ["drill slow primary ms=20 for 300ms", ["slow", "primary", "ms=20", "for", "300ms"],
     {"fault": "slow", "target": "primary", "ms": 20, "for_ms": 300}],
)  # fmt: skip
def test_processes_of_ours_strike_too(arguments: Any) -> None:
    found = read(experiment(action({"type": "process", "path": "/usr/bin/hotspare", "arguments": arguments})))
    assert found.strikes == (Strike(500, FaultKind.SLOW, Role.PRIMARY, 300, (("ms", 20.0),)),)


def test_probes_of_the_hypothesis_are_the_objectives() -> None:
    hypothesis = {
        "title": "t",
        "probes": [probe("lost_max", 0), probe("rto_ms_max", [0, 250]), probe("localisation_min", [0.5, 1]),
                   probe("worst_ms_max", {"type": "range", "range": [0, 99.5]})],
    }  # fmt: skip
    found = read(experiment(action(python("kill", target="primary")), **{"steady-state-hypothesis": hypothesis}))
    assert found.objectives == Objectives(
        lost_max=0, wrong_max=None, rpo_versions_max=None, rto_ms_max=250.0, worst_ms_max=99.5, localisation_min=0.5
    )


def test_everything_that_cannot_be_mapped_is_told_at_once() -> None:
    told = problems(
        experiment(
            action({"type": "http", "url": "http://127.0.0.1"}),
            action({"type": "python", "module": "chaosaws.ec2", "func": "stop"}),
            action(python("kil", target="primary")),
            action(python("kill", target="primary", for_ms=3)),
            action(python("slow", target="primary", ms="long")),
            action({"type": "process", "path": "pkill", "arguments": "-9 server"}),
            {"type": "probe", "name": "p", "provider": python("lost_max")},
            {"ref": "other"},
            secrets={},
            rollbacks=[action(python("kill"))],
            configuration={"load": "poisson 100 for 2s", "pair": "standby=tepid", "zone": "eu"},
            **{"steady-state-hypothesis": {"title": "t", "probes": [probe("uptime", 1), probe("lost_max", "none")]}},
        )
    )
    places = [one.split(":")[0] for one in told]
    for place in (
        "the experiment", "configuration", "configuration.load", "configuration.pair", "rollbacks",
        "method[0].provider", "method[1].provider.module", "method[2]", "method[3]", "method[4]",
        "method[5].provider.path", "method[6]", "method[7]", "method[7].provider",
        "steady-state-hypothesis.probes[0]", "steady-state-hypothesis.probes[1]",
    ):  # fmt: skip
        assert place in places
    assert "did you mean kill?" in next(one for one in told if one.startswith("method[2]"))


def test_what_no_script_may_hold_is_refused_here_too() -> None:
    late = experiment(action(python("kill", target="primary")), configuration={"load": "poisson 10/s for 0.2s"})
    assert "the load ends at 200 ms" in str(problems(late))


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["type", "provider", "func", "module", "arguments", "pauses", "before", "target", "path"]
                )
                | st.text(max_size=4),
                inner
                | st.sampled_from(["action", "python", "process", "hotspare", "hotspare.drill", "kill", "primary"]),
                max_size=5,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["title", "method", "configuration", "steady-state-hypothesis", "rollbacks", "description", ""]),
)
def test_no_experiment_makes_the_reader_fail_otherwise(value: Any, place: str) -> None:
    whole = experiment(action(python("kill", target="primary"))) | {place: value} if place else value
    for one in (whole, experiment(action(value)) if isinstance(value, dict) else experiment(value)):
        try:
            read(one)
        except RecipeError:
            continue


@pytest.mark.parametrize("text", [b"\xff", "", "{", "[" * 100_000, '{"title": ' + "9" * 5000 + "}"])
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(RecipeError):
        parse_experiment(text, "x")


@pytest.mark.parametrize("shipped", load_scripts(SHIPPED), ids=lambda one: one.name)
def test_every_shipped_script_is_an_experiment_that_reads_back(shipped: Script) -> None:
    back = parse_experiment(json.dumps(experiment_of(shipped)), shipped.name)
    assert back == replace(shipped, transcript="", shows=())


# The journal.


def test_a_journal_tells_the_run_as_chaos_toolkit_does() -> None:
    found = journal(script(), killed(), BEGAN)
    assert json.loads(json.dumps(found)) == found
    assert found.keys() >= {"chaoslib-version", "platform", "node", "experiment", "start", "status", "deviated",
                            "steady_states", "run", "rollbacks", "end", "duration"}  # fmt: skip
    assert (found["status"], found["deviated"], found["duration"]) == ("completed", False, 2.0)
    assert found["start"] == "2026-11-22T12:00:00+00:00"
    (run,) = found["run"]
    assert run["activity"] == found["experiment"]["method"][0]
    assert datetime.fromisoformat(run["start"]) - BEGAN == timedelta(milliseconds=501)
    assert run["output"] == "noticed after 5 ms, answers right again after 0 ms, diagnosed: process"
    assert found["steady_states"]["before"]["steady_state_met"]
    assert {one["activity"]["name"]: one["output"] for one in found["steady_states"]["after"]["probes"]} == {
        "lost_max": "0", "wrong_max": "0", "rto_ms_max": "0", "rpo_versions_max": "0",
    }  # fmt: skip


def test_a_journal_of_a_missed_objective_has_deviated_after_a_steady_start() -> None:
    found = journal(script(), killed(requests={60: lost(60)}), BEGAN)
    assert (found["status"], found["deviated"]) == ("failed", True)
    assert found["steady_states"]["before"]["steady_state_met"]
    after = found["steady_states"]["after"]
    assert not after["steady_state_met"]
    met = {one["activity"]["name"]: one["tolerance_met"] for one in after["probes"]}
    assert (met["lost_max"], met["wrong_max"]) == (False, True)


def test_a_journal_keeps_the_experiment_as_it_was_given() -> None:
    given_one = experiment_of(script()) | {"tags": ["mine"]}
    assert journal(script(), killed(), BEGAN, given_one)["experiment"] == given_one


def test_a_journal_of_what_could_not_be_played_is_aborted() -> None:
    found = journal(script(), Observed("live", (), (), (), left_out="it needs root"), BEGAN)
    assert (found["status"], found["deviated"], found["run"]) == ("aborted", False, [])
