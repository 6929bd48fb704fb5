"""Campaigns: what is played, what is remembered, and what counts as worse than last time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import drilled
import pytest
from drilled import IDS, PLACE, kill, wrong

from pipeline.core import recipe as recipes
from pipeline.core.errors import InternalError, RecipeError
from pipeline.core.schema import plain, read
from pipeline.drill.campaign import RUNS_FILE, Ground, Runs, Todo, play_all
from pipeline.drill.campaign_recipe import Cell, cells, load_campaign, parse_campaign
from pipeline.drill.campaign_results import CampaignResult, cell_result, compare
from pipeline.drill.nouns import Observed, Outcome, Script

# Few requests: what is tested is not how they are measured.
KILL, WRONG = (replace(one, load=replace(one.load, rate_per_s=20.0)) for one in (drilled.KILL, drilled.WRONG))
SCRIPTS = (KILL, WRONG)
TEXT = """
about: Two drills.
models: [credit]
matrices:
  every: {drills: [all]}
  often: {drills: [kill-primary], loads: [written, busy], repeats: 3}
  prices: {drills: [kill-primary], strategies: [warm, double], is_judged: false}
loads:
  busy: {rate_per_s: 200}
strategies:
  warm: standby=warm
  double: replicas=2 verify=replicas
"""
NAMES = ["kill-primary", "corrupt-weights", "kill-primary/busy", "kill-primary/warm", "kill-primary/double"]


def chosen() -> tuple[Cell, ...]:
    return cells(parse_campaign(TEXT, "nightly.yaml"), SCRIPTS)


def ground(**changed: object) -> Ground:
    made = Ground("live", {"primary": "1f", "backup": "2e"}, recipes.Objectives(), ("kill-primary",), "c0de")
    return replace(made, **changed)  # type: ignore[arg-type]  # fields by name


def once(script: Script, number: int) -> Observed:
    return (wrong if script.name == WRONG.name else kill)(script, number)


class Counting:
    """Plays, and stops as if the machine were switched off before one of them."""

    def __init__(self, stops_before: int | None = None) -> None:
        self.played: list[tuple[str, int]] = []
        self._stops_before = stops_before

    def __call__(self, script: Script, number: int) -> Observed:
        if len(self.played) == self._stops_before:
            raise KeyboardInterrupt
        self.played.append((script.name, number))
        return once(script, number)


def held(folder: Path, play: Callable[[Script, int], Observed] = once, on: Ground | None = None) -> Runs:
    runs = Runs(folder, on or ground(), chosen())
    runs.recall()
    play_all(runs, play)
    return runs


def result(repeats: Sequence[Callable[[Script, int], Observed]], cell: Cell | None = None) -> CampaignResult:
    """Return a campaign of one cell with the given plays."""
    cell = cell or Cell(KILL.name, "written", "written", ("often",), len(repeats), True, KILL)
    folder_free = Runs(Path("/nowhere"), ground(), [cell])
    plays = [folder_free.judged(Todo("", cell, number), play(KILL, number)) for number, play in enumerate(repeats)]
    return CampaignResult(
        1, "nightly", "Tests.", "credit", "live", "2026-06-01T12:00:00Z", "hotspare 0.0", IDS, "5a", (
            cell_result(cell, plays),
        ), machine=PLACE,
    )  # fmt: skip


def late(by_ms: float) -> Callable[[Script, int], Observed]:
    """Return plays in which redundancy comes back so much later."""

    def play(script: Script, number: int) -> Observed:
        seen = kill(script, number)
        moments = (
            replace(one, at_ms=one.at_ms + by_ms + number) if one.text == "primary is ready again" else one
            for one in seen.moments
        )
        return replace(seen, moments=tuple(moments))

    return play


def lost(script: Script, number: int) -> Observed:
    seen = kill(script, number)
    first, *rest = seen.requests
    return replace(seen, requests=(replace(first, outcome=Outcome.LOST, done_ms=None), *rest))


def test_a_matrix_has_every_place_once_played_as_often_as_any_matrix_asks() -> None:
    found = chosen()
    assert [one.name for one in found] == NAMES
    assert [one.repeats for one in found] == [3, 1, 3, 1, 1]
    assert [one.is_judged for one in found] == [True, True, True, False, False]
    assert found[2].script.load.rate_per_s == 200
    assert dict(found[4].script.settings) == {"replicas": "2", "verify": "replicas"}
    assert found[3].script.objectives.rto_ms_max is None


def test_every_problem_of_a_campaign_is_told_at_once() -> None:
    text = TEXT.replace("[written, busy]", "[quiet]").replace("replicas=2", "replicas=two").replace("about", "abuot")
    with pytest.raises(RecipeError) as refused:
        parse_campaign(text, "nightly.yaml")
    assert "abuot" in str(refused.value)
    with pytest.raises(RecipeError) as refused:
        parse_campaign(text.replace("abuot", "about"), "nightly.yaml")
    for part in ("matrices.often.loads: 'quiet'", "strategies.double: replicas=two"):
        assert part in str(refused.value)


def test_what_no_script_can_play_is_told_before_anything_is_played(tmp_path: Path) -> None:
    text = TEXT.replace("rate_per_s: 200", "seconds: 0.4").replace("[all]", "[kill-9]")
    text = text.replace("standby=warm", "standby=warm verify=off") + "  pair: verify=pair\n"
    text = text.replace("[warm, double]", "[warm, double, pair]")
    (tmp_path / "nightly.yaml").write_text(text)
    cold = replace(KILL, settings=(("standby", "cold"),))
    with pytest.raises(RecipeError) as refused:
        load_campaign("nightly", (cold, WRONG), tmp_path)
    for part in ("no drill 'kill-9'", "strikes at 500 ms, and the load ends at 400 ms", "verify pair needs a hot"):
        assert part in str(refused.value)
    with pytest.raises(RecipeError, match="campaigns here: nightly"):
        load_campaign("weekly", SCRIPTS, tmp_path)
    for name in ("../../elsewhere", "a/b", "a\n", ""):
        with pytest.raises(RecipeError, match="no name of a campaign"):
            load_campaign(name, SCRIPTS, tmp_path)


def test_an_interrupted_campaign_goes_on_to_the_same_result(tmp_path: Path) -> None:
    whole = held(tmp_path / "whole")
    broken_off = Counting(stops_before=4)
    with pytest.raises(KeyboardInterrupt):
        held(tmp_path / "parts", broken_off)
    place = tmp_path / "parts" / RUNS_FILE
    place.write_bytes(place.read_bytes() + place.read_bytes()[:200])  # the power went while a line was written
    rest = Counting()
    resumed = held(tmp_path / "parts", rest)
    assert len(broken_off.played) == 4
    assert broken_off.played + rest.played == [
        (one.cell.drill, one.number) for one in Runs(tmp_path, ground(), chosen()).todo()
    ]
    assert [resumed.of(cell) for cell in chosen()] == [whole.of(cell) for cell in chosen()]
    assert place.read_bytes() == (tmp_path / "whole" / RUNS_FILE).read_bytes()
    assert all(json.loads(line) for line in place.read_bytes().splitlines())


def test_what_followed_from_other_code_machine_bundles_or_objectives_is_played_again(tmp_path: Path) -> None:
    held(tmp_path)
    others = (ground(code_sha256="0ther"), ground(machine={"processor": "another"}), ground(bundles={"primary": "3d"}))
    for other in (*others, ground(world="simulated")):
        again = Counting()
        held(tmp_path, again, other)
        assert len(again.played) == 9
    play = Counting()
    held(tmp_path, play, ground(world="simulated", objectives=recipes.Objectives(rto_ms_max=5.0)))
    assert play.played == [("kill-primary", 0), ("kill-primary", 1), ("kill-primary", 2)]  # what the recipe judges


def test_a_pair_that_does_not_start_costs_its_cell_and_not_the_night(tmp_path: Path) -> None:
    def play(script: Script, number: int) -> Observed:
        if script.name == WRONG.name:
            raise InternalError("The server did not start.")
        return kill(script, number)

    runs = held(tmp_path, play)
    found = {cell.name: cell_result(cell, runs.of(cell)) for cell in chosen()}
    assert "did not start" in found["corrupt-weights"].misses[0]
    assert found["kill-primary"].passed


def test_a_result_is_read_back_as_it_was_written() -> None:
    made = result([kill] * 6)
    assert read(CampaignResult, json.loads(made.to_bytes())) == made
    assert read(CampaignResult, plain(made.against(compare(made, made)))).comparison is not None


def test_times_beyond_the_last_interval_are_a_regression() -> None:
    found = compare(result([late(0)] * 6), result([late(200)] * 6))
    assert [(one.cell, one.what) for one in found.regressed] == [("kill-primary", "redundancy_ms")]
    back = compare(result([late(200)] * 6), result([late(0)] * 6))
    assert not back.regressed
    assert [one.what for one in back.improved] == ["redundancy_ms"]
    assert "9" in back.improved[0].was.split()[1]  # about 900 ms before, 700 ms now


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([late(0)] * 6, [late(0)] * 5 + [late(800)]),  # one slow play among six
        ([late(0)] * 5, [late(200)] * 5),  # too few plays for an interval
        ([late(0)] * 6, [late(9)] * 6),  # what nobody would notice
    ],
)
def test_chance_and_trifles_are_no_regression(
    before: list[Callable[[Script, int], Observed]], after: list[Callable[[Script, int], Observed]]
) -> None:
    found = compare(result(before), result(after))
    assert found.regressed == ()
    assert found.cells == 1


def test_an_objective_that_held_and_is_missed_is_a_regression_at_once() -> None:
    found = compare(result([kill]), result([lost]))
    assert [one.what for one in found.regressed] == ["objective"]
    assert "lost_max" in found.regressed[0].now
    assert compare(result([lost]), result([lost])).regressed == ()
    often = compare(result([kill] * 6), result([lost] * 6))
    assert [one.what for one in often.regressed][:2] == ["objective", "plays with lost"]


def test_times_of_another_machine_and_other_scripts_are_not_compared() -> None:
    slow = result([late(200)] * 6)
    elsewhere = replace(slow, machine={**PLACE, "processor": "Another"})
    found = compare(result([late(0)] * 6), elsewhere)
    assert not found.is_like_machine
    assert found.regressed == ()
    changed = replace(KILL, load=replace(KILL.load, rate_per_s=50.0))
    other = result([late(200)] * 6, Cell(KILL.name, "written", "written", ("often",), 6, True, changed))
    found = compare(result([late(0)] * 6), other)
    assert (found.cells, found.regressed, found.left_aside) == (0, (), ("kill-primary",))
