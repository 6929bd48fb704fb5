"""The page of a campaign: nothing loaded from elsewhere, escaped, and every cell in it."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import open_tab
from drilled import IDS, KILL, PLACE, WRONG, kill, wrong

from pipeline.core import recipe as recipes
from pipeline.drill.campaign_recipe import Cell
from pipeline.drill.campaign_results import CampaignResult, cell_result, compare
from pipeline.drill.nouns import Script
from pipeline.drill.results import examined
from pipeline.drill.strategies import compared
from pipeline.drill.weakest import WeakMoment
from pipeline.report.campaign_page import render_campaign


def made_up() -> CampaignResult:
    plays = {
        script.name: [examined(script, play(script, number), recipes.Objectives()) for number in range(6)]
        for script, play in ((KILL, kill), (WRONG, wrong))
    }
    weak = WeakMoment(
        "kill-primary", "hot", "kill at 7 ms", 40, None, 3.0, 90.0, 4.0, 2, 0, 1, 0, "# A <rule>.\nload …\n----\n"
    )
    result = CampaignResult(
        1, "nightly", "Every <fault>.", "credit", "live", "2026-06-01T12:00:00Z", "hotspare 0.0", IDS, "5a",
        tuple(cell_result(_cell(script), plays[script.name]) for script in (KILL, WRONG)),
        {"prices": compared({name: [one.measures for one in plays[name]] for name in plays}, {})}, (weak,), None, PLACE,
    )  # fmt: skip
    was = replace(result, cells=(cell_result(_cell(WRONG), plays[KILL.name]),))
    return result.against(compare(was, result))


def _cell(script: Script) -> Cell:
    return Cell(script.name, "written", "written", ("often",), 6, True, script)


@pytest.fixture(scope="module")
def page() -> str:
    return render_campaign(made_up())


def test_the_campaign_page_loads_nothing_and_escapes_what_it_is_told(page: str) -> None:
    assert re.findall(r"<(?:script|link|img|iframe|object|embed|base)\b|https?://", page) == []
    assert "Every &lt;fault&gt;." in page
    assert "# A &lt;rule&gt;." in page
    assert page == render_campaign(made_up())


def test_the_campaign_page_tells_cells_prices_weak_moments_and_what_became_worse(page: str) -> None:
    assert "<title>Campaign nightly of credit: failed</title>" in page
    for text in ("kill-primary", "corrupt-weights", "▸ kill-primary", "kill at 7 ms", "objective", "at 95"):
        assert text in page
    assert re.search(r"1 of 2</b><span>cells passed", page)


def test_the_first_campaign_says_that_there_is_nothing_to_compare() -> None:
    assert "This is the first one" in render_campaign(replace(made_up(), comparison=None))


@pytest.mark.slow
def test_the_campaign_page_renders_in_chromium_without_errors_and_asks_for_nothing(page: str, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(page)
    with open_tab(tmp_path) as tab:
        tab.ask("Page.navigate", url=path.as_uri())
        tab.wait("document.readyState === 'complete' && document.querySelectorAll('table').length === 4")
        assert tab.errors == []
        assert tab.run("performance.getEntriesByType('resource').map((entry) => entry.name)") == []
        widest = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.run(widest), "the page scrolls sideways"
