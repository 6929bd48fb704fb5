"""The search for the weakest moment, and the price list of strategies."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from drilled import KILL, kill, wrong

from pipeline.core.names import Role
from pipeline.drill.measures import measure
from pipeline.drill.nouns import FaultKind, Load, Observed, Outcome, Request, Script, Strike
from pipeline.drill.script import parse_script
from pipeline.drill.simulated.world import simulate
from pipeline.drill.strategies import compared, markdown
from pipeline.drill.weakest import weakest

STOP = Script("stop", "A rule.", Load(rate_per_s=60, seconds=0.5), (Strike(200, FaultKind.STOP, Role.PRIMARY),))
TWICE = Script(
    "both", "A rule.", Load(rate_per_s=60, seconds=0.6),
    (Strike(200, FaultKind.KILL, Role.BACKUP), Strike(230, FaultKind.KILL, Role.PRIMARY)),
)  # fmt: skip


FEW = replace(KILL, load=replace(KILL.load, rate_per_s=5.0))


def slowest(first_ms: int, gap_ms: int) -> Callable[[Script, int], Observed]:
    """Return a world whose only answer is the later, the nearer the strikes are to a moment."""

    def play(script: Script, _seed: int) -> Observed:
        at_ms = [one.at_ms for one in script.strikes]
        off = abs(at_ms[0] - first_ms) + abs(at_ms[-1] - at_ms[0] - gap_ms)
        request = Request(0, 0, 0.0, 0.0, 900.0 - off, Outcome.RIGHT, Role.PRIMARY, 1)
        return Observed("simulated", (request,), (), ((0.0, Role.PRIMARY, 1),))

    return play


def test_the_worst_moment_is_found_to_the_millisecond() -> None:
    found = weakest(TWICE, "written", slowest(263, 117), plays_max=300)
    moved = parse_script(found.script, "both")
    assert [one.at_ms for one in moved.strikes] == [263, 380]
    assert found.worst_ms == 900 > found.worst_ms_written
    assert found.plays <= 300


def test_the_search_ends_where_its_plays_do() -> None:
    found = weakest(TWICE, "written", slowest(263, 117), plays_max=10)
    assert found.plays == 10


def test_the_same_seed_finds_the_same_and_its_text_plays_it_again() -> None:
    found = weakest(STOP, "written", simulate, plays_max=5, seed=3)
    assert found == weakest(STOP, "written", simulate, plays_max=5, seed=3)
    script = parse_script(found.script, "stop")
    again = measure(script, simulate(script, 0))
    assert (round(again.worst_ms, 1), again.lost, again.wrong) == (found.worst_ms, found.lost, found.wrong)
    assert found.worst_ms >= found.worst_ms_written


@pytest.mark.parametrize("lasts_ms", [30, None])
def test_a_trouble_is_never_made_longer_than_it_is_written(lasts_ms: int | None) -> None:
    script = replace(STOP, strikes=(replace(STOP.strikes[0], lasts_ms=lasts_ms),))
    tried: list[int | None] = []

    def play(script: Script, seed: int) -> Observed:
        tried.append(script.strikes[0].lasts_ms)
        return kill(FEW, seed)

    weakest(script, "written", play, plays_max=60)
    assert tried[0] == lasts_ms
    assert all(one is None if lasts_ms is None else one is not None and one <= lasts_ms for one in tried)


def test_strategies_are_compared_by_what_they_cost_and_buy() -> None:
    good, bad = (measure(KILL, replace(seen, memory_rest_mb=150.0)) for seen in (kill(KILL), wrong(KILL)))
    free = replace(good, memory_mb=0.0, memory_rest_mb=0.0, cpu_ratio=0.0)
    away = replace(good, left_out="It needs root.")
    rows = compared({"hot": [good, good, away], "odd": [bad], "idle": [free]}, {"odd": "standby=hot"})
    by_name = {one.name: one for one in rows}
    assert (by_name["hot"].plays, by_name["hot"].left_out, by_name["hot"].memory_mb) == (2, 1, 212.0)
    assert by_name["odd"].wrong > 0
    assert by_name["idle"].memory_mb is None
    assert [one.name for one in rows if one.is_beaten] == ["odd"]
    near = compared({"hot": [good], "near": [replace(good, memory_rest_mb=156.0)]}, {})
    far = compared({"hot": [good], "far": [replace(good, memory_rest_mb=175.0)]}, {})
    assert [one.name for one in (*near, *far) if one.is_beaten] == ["far"]
    lines = markdown(rows).splitlines()
    assert lines[0].startswith("| strategy | settings |")
    assert lines[2].startswith("| ▸ hot | as written | 2 |")
    assert "| 150 MB | 212 MB |" in lines[2]
    assert len({line.count("|") for line in lines}) == 1
