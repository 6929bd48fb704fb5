"""Drill scripts: what is written is what is read, and every problem is told with its line."""

from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import RecipeError
from pipeline.core.names import Role
from pipeline.core.printable import printable
from pipeline.drill.fault_facts import FACTS
from pipeline.drill.nouns import Arrivals, FaultKind, Load, Objectives, Script, Strike
from pipeline.drill.script import NEEDS, SHOWABLE, format_script, load_scripts, parse_script
from pipeline.drill.script_lines import AMOUNT_BOUNDS

SHIPPED = Path(__file__).parents[2] / "recipes" / "drills"
LEAST = "# A rule.\nload poisson 100/s for 3s\n"

figures = st.integers(1, 10_000).map(float) | st.floats(1e-6, 1e6)
words = st.text("abcdefghij/._-", min_size=1, max_size=12)
lines = st.text(max_size=40).map(lambda text: " ".join(printable(text).split()))


@st.composite
def strikes(draw: st.DrawFn) -> Strike:
    fault = draw(st.sampled_from(FaultKind))
    facts = FACTS[fault]
    names = draw(st.lists(st.sampled_from(sorted(facts.amounts)), unique=True)) if facts.amounts else []
    return Strike(
        at_ms=draw(st.integers(0, 2999)),
        fault=fault,
        target=draw(st.sampled_from(Role)) if facts.is_aimed else None,
        lasts_ms=draw(st.none() | st.integers(1, 10_000)) if facts.can_end else None,
        amounts=tuple((name, draw(st.floats(*AMOUNT_BOUNDS[name])) + 0.0) for name in names),
    )


@st.composite
def loads(draw: st.DrawFn) -> Load:
    arrivals = draw(st.sampled_from(Arrivals))
    return Load(
        arrivals=arrivals,
        rate_per_s=draw(st.floats(0.001, 1000)),
        seconds=draw(st.floats(3, 100)),
        deadline_ms=draw(figures),
        seed=draw(st.integers(0, 2**40)),
        log=draw(words) if arrivals is Arrivals.REPLAY else "",
    )


@st.composite
def objectives(draw: st.DrawFn) -> Objectives:
    asked = {}
    for one in fields(Objectives):
        bounds = st.integers(0, 1000) if "int" in str(one.type) else st.floats(0, 1)
        asked[one.name] = draw(st.none() | bounds)
    return Objectives(**asked)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    texts = [line.rstrip() for line in draw(st.lists(lines, max_size=4))]
    given_settings = {
        "standby": "warm",
        "verify": "off",
        "replicas": "2",
        "shadow_ratio": "0.5",
        "probe_every_ms": "50",
    }
    return Script(
        name="any",
        rule=draw(lines.filter(bool)),
        load=draw(loads()),
        strikes=tuple(sorted(draw(st.lists(strikes(), max_size=4)), key=lambda one: one.at_ms)),
        objectives=draw(objectives()),
        settings=tuple(
            (name, given_settings[name])
            for name in draw(st.lists(st.sampled_from(sorted(given_settings)), unique=True))
        ),
        needs=tuple(draw(st.lists(st.sampled_from(NEEDS), unique=True))),
        transcript="\n".join(texts).strip("\n"),
        comments=tuple(draw(st.lists(lines, max_size=3))),
        shows=tuple(draw(st.lists(st.sampled_from(SHOWABLE), unique=True))),
    )


@settings(max_examples=25)
@given(scripts())
def test_what_is_written_is_read_back_the_same(script: Script) -> None:
    assert parse_script(format_script(script), script.name) == script


@given(st.text(max_size=300) | st.text("# atload pirexcn0=1msfor/\n-.", max_size=300))
@example("# rule\nload poisson 100/s for 1e999s")
@example("# rule\nload poisson " + "9" * 5000 + "/s for 3s")
@example("# rule\nat ²ms kill primary")
@example("# rule\npair replicas=" + "9" * 5000)
@example("# rule\npair worker_memory_mb=None")
@example("#\x0b\n----\n----")
@example("\ud800")
def test_no_text_makes_the_reader_fail_otherwise(text: str) -> None:
    try:
        script = parse_script(text, "any")
    except RecipeError:
        return
    assert parse_script(format_script(script), "any") == script


@settings(max_examples=15)
@given(scripts(), st.data())
def test_no_spoiled_script_makes_the_reader_fail_otherwise(script: Script, data: st.DataObject) -> None:
    text = format_script(script)
    at = data.draw(st.integers(0, len(text)))
    spoiled = text[:at] + data.draw(st.text(max_size=5)) + text[at + data.draw(st.integers(0, 5)) :]
    test_no_text_makes_the_reader_fail_otherwise.hypothesis.inner_test(spoiled)


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as refused:
        parse_script(text, "drills/x.drill")
    first, *rest = str(refused.value).split("\n  - ")
    assert first.startswith("drills/x.drill: ")
    assert f"{len(rest)} problem(s)" in first
    return rest


def test_every_problem_is_told_at_once_with_its_line() -> None:
    told = problems(
        "no rule\n"
        "pair standby=hut replicas=2 replicas=3 colour=red\n"
        "load poisson 100/s for 3m seed -1 deadline 1s\n"
        "at 500 kill primary\n"
        "at 600ms kil primary\n"
        "at 700ms kill\n"
        "at 800ms registry-down primary\n"
        "at 900ms kill primary ms=3 for 1ms\n"
        "expect lost_max=0 lost_max=1 rto=3 abstained_ratio_max=2 wrong_max=1.5\n"
        "needs luck\n"
        "shows nothing\n"
        "then what\n"
    )
    assert Counter(one.split(":")[0] for one in told) == {
        "line 1": 1, "line 2": 3, "line 3": 3, "line 4": 1, "line 5": 1, "line 6": 1, "line 7": 1, "line 8": 2,
        "line 9": 4, "line 10": 1, "line 11": 1, "line 12": 1,
    }  # fmt: skip
    assert told == sorted(told, key=lambda one: int(one.removeprefix("line ").split(":")[0]))
    assert "(did you mean kill?)" in next(one for one in told if one.startswith("line 5"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("at 3000ms kill primary", "the load ends at 3000 ms"),
        ("at 5s kill primary", "whole number of ms"),
        ("at 500ms kill primary\nat 400ms kill backup", "in the order of time"),
        ("at 500ms stop primary for ever", "how long it lasts"),
        ("at 500ms stop primary for 1ms 2ms", "one word"),
        ("at 500ms stop primary for 0ms", "longer than 0 ms"),
        ("expect lost_max=0\nexpect lost_max=1", "stands twice"),
        ("pair verify=replicas", "needs at least 2 replicas"),
        ("pair standby=cold verify=pair", "needs a hot standby"),
        ("load constant 1/s for 1s", "one load"),
        ("expect", "names objectives"),
        ("expect localisation_min=1.5", "from 0 to 1"),
        # A strike that does nothing would pass, one without bounds would take the machine down.
        ("at 1ms cpu-starvation processes=0", "processes is from 1 to 256"),
        ("at 1ms cpu-starvation processes=0.9", "processes is from 1 to 256"),
        ("at 1ms cpu-starvation processes=1000000", "processes is from 1 to 256"),
        ("at 1ms poison poison_requests=0", "poison_requests is from 1"),
        ("at 1ms poison poison_requests=1e12", "poison_requests is from 1"),
        ("at 1ms start-fails primary times=0", "times is from 1"),
        ("at 1ms slow primary ms=-5", "ms is from 0"),
        ("at 1ms clock-back ms=1e15", "ms is from 0"),
        ("at 1ms descriptors connections=1e15", "connections is from 1"),
        ("at 1ms out-of-memory primary grow_mb=1e15", "grow_mb is from 1"),
        ("pair replicas=100000", "at most 16 replicas"),
        ("at 1ms kill primary\n" * 1001, "at most 1000 strikes"),
        ("# \x1b]0;pwned\x07", "cannot be shown"),
        ("# \u202etxen", "cannot be shown"),
        ("# a\0b", "cannot be shown"),
        ("----\n\x1b[2Jserving: primary", "cannot be shown"),
    ],
)
def test_what_makes_no_sense_is_refused(line: str, said: str) -> None:
    (told,) = problems(LEAST + line)
    assert said in told


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("load poisson 100 for 3s", "rate"),
        ("load poisson -1/s for 3s", "from 0"),
        ("load poisson 0/s for 3s", "more than 0/s"),
        ("load poisson 100/s for 3s deadline 1e15ms", "the deadline is from 0"),
        ("load replay for 3s", "log FILE"),
        ("load poisson 100/s for 3s log times", "log FILE"),
        ("load poisson 100/s for 0s", "longer than 0 s"),
        ("load poisson 100/s for 3s deadline 0ms", "longer than 0 ms"),
        ("load poisson 100000/s for 3600s", "1000000 requests"),
        ("load sometimes", "constant, poisson, replay"),
        ("load poisson 100/s for 3s for 4s", "stands twice"),
        ("load poisson 100/s for", "no value"),
    ],
)
def test_a_load_that_makes_no_sense_is_refused(line: str, said: str) -> None:
    assert any(said in told for told in problems(f"# A rule.\n{line}"))


def test_any_takes_an_objective_back_that_every_drill_has() -> None:
    asked = parse_script(LEAST + "expect lost_max=any rto_ms_max=100\n", "x").objectives
    assert (asked.lost_max, asked.wrong_max, asked.rto_ms_max) == (None, 0, 100.0)


def test_comments_and_the_transcript_are_kept() -> None:
    script = parse_script("# A rule.\n# because\nload poisson 1/s for 3s\n\n#later\n----\n# as it is  \n----\n\n", "x")
    assert script.comments == ("because", "later")
    assert script.transcript == "# as it is\n----"


def test_the_scripts_of_a_folder_come_by_name_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "b.drill").write_text(LEAST)
    (tmp_path / "a.drill").write_text(LEAST)
    (tmp_path / "notes.txt").write_text("no script")
    assert [script.name for script in load_scripts(tmp_path)] == ["a", "b"]
    (tmp_path / "a.drill").write_bytes(b"\xff")
    (tmp_path / "b.drill").write_text("no rule")
    with pytest.raises(RecipeError, match=r"(?s)a\.drill is not UTF-8.*b: 1 problem"):
        load_scripts(tmp_path)


def test_a_folder_without_scripts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no drill script"):
        load_scripts(tmp_path)


def test_shipped_scripts_are_written_as_the_formatter_writes_them() -> None:
    for script in load_scripts(SHIPPED):
        assert (SHIPPED / f"{script.name}.drill").read_text() == format_script(script)


def test_every_fault_has_a_shipped_drill_of_its_name() -> None:
    shipped = {script.name: script for script in load_scripts(SHIPPED)}
    for fault in FaultKind:
        assert any(strike.fault is fault for strike in shipped[fault].strikes)


def test_shipped_drills_are_short_and_expect_something_of_their_own() -> None:
    for script in load_scripts(SHIPPED):
        assert script.load.seconds <= 4
        assert script.rule.endswith(".")
        assert script.transcript.endswith("verdict: passed")
        assert script.objectives != Objectives()


def test_every_figure_of_a_fault_has_its_bounds() -> None:
    assert {name for one in FACTS.values() for name in one.amounts} == set(AMOUNT_BOUNDS)


def test_every_fault_has_its_facts() -> None:
    assert set(FACTS) == set(FaultKind)
