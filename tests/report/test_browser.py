"""The page in a real browser: it renders, nothing is reported as an error, its plots and tables are there."""

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from chromium import open_tab
from drilled import made_up
from matplotlib import image

from pipeline.report.drill_page import render_drill
from pipeline.report.page import draw, render

CHROMIUM = shutil.which("chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
SECTIONS = 5  # tables that every page has


def browse(page, tmp_path, *flags):
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI must have Debian's package chromium")
        pytest.skip("chromium is not installed")
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture
def page(facts, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(render(facts, draw(facts)))
    return path


@pytest.mark.slow
def test_the_page_renders_in_chromium_without_errors(page, tmp_path):
    shown = browse(page, tmp_path, "--dump-dom")
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []
    assert len(re.findall("<svg", shown.stdout)) == 7
    assert len(re.findall("<table", shown.stdout)) >= SECTIONS
    assert "Locked test rows" in shown.stdout


@pytest.mark.slow
def test_a_page_that_breaks_its_own_rules_is_noticed(page, tmp_path):
    page.write_text(page.read_text().replace("</body>", "<script>alert(1)</script></body>"))
    assert "CONSOLE" in browse(page, tmp_path, "--dump-dom").stderr


@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1200])
def test_the_page_is_painted_in_its_colours(page, tmp_path, width):
    picture = tmp_path / "page.png"
    browse(page, tmp_path, f"--window-size={width},4000", f"--screenshot={picture}")
    pixels = (image.imread(picture)[..., :3] * 255).round().astype(np.uint8)
    assert pixels.shape[1] == width
    assert (pixels < 128).mean() > 0.003  # ink
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):  # marks of the primary and the backup
        assert (np.abs(pixels.astype(int) - colour).sum(axis=-1) < 12).sum() > 30


@pytest.fixture
def drill_page(tmp_path):
    path = tmp_path / "drill.html"
    path.write_text(render_drill(made_up()))
    return path


@pytest.mark.slow
def test_the_page_of_a_drill_renders_in_chromium_without_errors_and_asks_for_nothing(drill_page, tmp_path):
    with open_tab(tmp_path) as tab:
        tab.ask("Page.navigate", url=drill_page.as_uri())
        tab.wait("document.readyState === 'complete' && document.querySelectorAll('svg').length === 4")
        assert tab.errors == []
        asked = "performance.getEntriesByType('resource').map((entry) => entry.name)"
        assert tab.run(asked) == []
        widest = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.run(widest), "the page scrolls sideways"
        assert tab.run("document.querySelectorAll('table').length") >= 10
        empty = "[...document.querySelectorAll('svg')].filter((svg) => svg.getBoundingClientRect().height < 100).length"
        assert tab.run(empty) == 0


@pytest.mark.slow
def test_the_page_of_a_drill_is_told_apart_in_grey(drill_page, tmp_path):
    """Roles and verdicts keep their contrast when a printer drops the colour."""
    picture = tmp_path / "page.png"
    browse(drill_page, tmp_path, "--window-size=1150,4000", f"--screenshot={picture}")
    pixels = image.imread(picture)[..., :3] @ np.array([0.2126, 0.7152, 0.0722])
    serving = max(range(pixels.shape[0]), key=lambda row: (np.abs(np.diff(pixels[row])) > 0.3).sum())
    assert (np.abs(np.diff(pixels[serving])) > 0.3).sum() > 100  # the backup's hatch against the primary's solid bar
