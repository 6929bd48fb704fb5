"""The status page in a real browser: it draws, keeps drawing, shows hostile text as text, obeys only with a token."""

import base64
import io

import numpy as np
import pytest
from chromium import open_tab
from matplotlib import image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_tab(tmp_path_factory.mktemp("chromium")) as tab:
        yield tab


@pytest.fixture
def tab(browser, served):
    browser.errors.clear()
    browser.ask("Page.navigate", url=f"http://127.0.0.1:{served.port}/")
    browser.wait("document.querySelectorAll('#pairs section').length === 3")
    return browser


def text_of(tab, selector="body"):
    return tab.run(f"document.querySelector({selector!r}).innerText")


def type_token(tab, token):
    tab.run(f"document.getElementById('token').value = {token!r}; document.querySelector('#admin button').click()")


def test_the_page_tells_state_term_members_and_what_happened(tab):
    text = text_of(tab, "section")
    for part in (
        "tiny",
        "Serving",
        "the primary answers",
        "term 7",
        "primary-0",
        "ready, serves",
        "backup-0",
        "failovers",
    ):
        assert part in text
    assert "engine at fault (hang, 90 % sure): no answer for 150 ms; process state S" in text
    assert tab.run("document.querySelectorAll('section svg path').length") == 6
    assert tab.errors == []


def test_a_person_sees_how_old_a_channel_is_and_that_it_was_not_renewed(tab):
    current, due, ended = (text_of(tab, f"section:nth-of-type({number})") for number in (1, 2, 3))
    assert "channel stable, epoch 1, seq 9" in current
    assert "issued 2026-06-01T12:00:00Z, 2 h ago; to be renewed by 2026-06-02T12:00:00Z, in 22 h" in " ".join(
        current.split()
    )
    assert "Not renewed" in due and "it was to be renewed by 2026-06-02T12:00:00Z, 60 min ago" in due
    assert "it ends at 2026-06-03T12:00:00Z, in 23 h" in due
    assert "Expired" in ended and "Out of service" in ended and "every request is refused" in ended


def test_text_of_the_server_is_shown_and_never_run(tab):
    assert "<script>alert(1)</script>" in text_of(tab)
    assert tab.run("document.querySelectorAll('main script').length") == 0


def test_the_page_keeps_drawing_without_leaving_the_keyboard_s_place(tab, served):
    type_token(tab, served.admin_token)
    tab.wait("document.getElementById('tiny/swap/')")
    tab.run("document.getElementById('tiny/swap/').focus(); window.first = document.getElementById('tiny/swap/')")
    tab.wait("document.getElementById('tiny/swap/') !== window.first")
    assert tab.run("document.activeElement.id") == "tiny/swap/"


def test_there_are_no_buttons_before_a_token(tab):
    assert tab.run("document.querySelectorAll('main button').length") == 0


def test_with_the_token_orders_are_carried_out(tab, served):
    type_token(tab, served.admin_token)
    tab.wait("document.getElementById('tiny/switch/')")
    assert text_of(tab, "main button") == "Switch to the backup"
    for button, told in (
        ("tiny/switch/", "switch tiny backup: done."),
        ("tiny/hold/backup-0", "hold tiny backup-0: done."),
        ("tiny/hold/primary-0", "primary-0 is the last that serves; switch first."),
        ("tiny/swap/", "swap tiny: done."),
    ):
        tab.run(f"document.getElementById({button!r}).click()")
        tab.wait(f"document.getElementById('said').innerText === {told!r}")
    assert tab.run("document.getElementById('token').value") == ""
    assert served.admin_token not in tab.run("document.documentElement.outerHTML + JSON.stringify(localStorage)")


def test_a_wrong_token_does_nothing_and_takes_the_buttons_away(tab):
    type_token(tab, "wrong")
    tab.wait("document.getElementById('tiny/switch/')")
    tab.run("document.getElementById('tiny/switch/').click()")
    tab.wait("document.getElementById('said').innerText.startsWith('This token does not open this')")
    tab.wait("document.querySelectorAll('main button').length === 0")


def test_a_server_that_is_gone_is_told(tab):
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.ask("Network.emulateNetworkConditions", offline=True, **offline)
    tab.wait("document.getElementById('fresh').innerText.includes('does not answer')")
    tab.ask("Network.emulateNetworkConditions", offline=False, **offline)
    tab.wait("document.getElementById('fresh').innerText.startsWith('as of')")


@pytest.mark.parametrize(("scheme", "ground"), [("light", 255), ("dark", 23)])
@pytest.mark.parametrize("width", [400, 1100])
def test_the_page_is_painted_light_and_dark_and_fits(tab, scheme, ground, width):
    tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.ask("Emulation.setDeviceMetricsOverride", width=width, height=1400, deviceScaleFactor=1, mobile=False)
    picture = base64.b64decode(tab.ask("Page.captureScreenshot")["data"])
    pixels = (image.imread(io.BytesIO(picture))[..., :3] * 255).round().astype(int)
    assert pixels.shape[1] == width
    assert abs(pixels[5, 5] - ground).max() <= 4
    assert 0.005 < (np.abs(pixels - pixels[5, 5]).max(axis=-1) > 60).mean() < 0.3  # ink
    assert tab.run("document.documentElement.scrollWidth") <= width
