"""The report: one self-contained page whose every figure comes from the records, safe and reproducible."""

import dataclasses
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from pipeline.core.names import Role
from pipeline.report import page as page_module
from pipeline.report import sections, words
from pipeline.report.page import LATENCY_PLOT, LOSS_PLOT, draw, render

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Collects tags and text, and notes tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def whole_page(facts):
    return render(facts, draw(facts))


@pytest.fixture(scope="module")
def html(facts):
    return whole_page(facts)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


@pytest.fixture
def without_plots(monkeypatch):
    """Plots take a second each and have tests of their own."""
    monkeypatch.setattr(page_module, "scatter", lambda *_: "<svg></svg>")
    monkeypatch.setattr(sections, "front", lambda *_: "<svg></svg>")


def test_equal_facts_give_equal_bytes(facts, without_plots):
    assert whole_page(facts) == whole_page(facts)


def test_the_pages_plots_are_pictures_that_stand_alone(facts, html):
    plots = draw(facts)
    assert set(plots) == {LOSS_PLOT, LATENCY_PLOT}
    for text in plots.values():
        assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - ours
        assert text in html


def test_nothing_is_loaded_from_elsewhere(html, page):
    attributes = [(name, value or "") for _, found in page.tags for name, value in found.items()]
    loads = [value for name, value in attributes if name in ("src", "href", "xlink:href", "data", "srcset", "action")]
    assert all(value.startswith("#") for value in loads)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "img"}
    assert "@import" not in html
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))


def test_every_tag_closes_and_no_id_comes_twice(page):
    assert page.open == []
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))


def test_text_of_recipes_is_escaped(html):
    assert "Credit default &lt;within a month&gt;" in html
    assert "<within a month>" not in html


def test_a_hostile_title_stays_text(facts, without_plots):
    about = dataclasses.replace(facts.recipe.about, title="</title><script>alert(1)</script>")
    hostile = dataclasses.replace(facts, recipe=dataclasses.replace(facts.recipe, about=about))
    assert "<script" not in whole_page(hostile)


def test_every_candidate_and_every_reason_is_told(facts, page):
    for verdict in facts.selected.verdicts:
        assert verdict.candidate in page.text
        for reason in verdict.reasons:
            assert reason in page.text


def test_the_pair_is_told_with_its_figures_and_what_the_locked_rows_say(facts, page):
    backup = facts.chosen[Role.BACKUP]
    sentence = words.role_sentence(Role.BACKUP, facts.recipe.select.backup.prefer, backup, facts.reference)
    assert "The backup is p50.w8d: the smallest compressed file within the budgets" in sentence
    assert "28.4\u00a0% of the float model's bytes" in sentence
    assert " ".join(sentence.split()) in page.text
    assert "Locked test rows" in page.text
    assert facts.selected.warnings[0] in page.text


def test_zeros_are_said_to_show_in_compressed_bytes_and_not_in_speed(page):
    assert "the file is as large and a call takes as long" in page.text
    assert "p50.w8d 50.0 % 38.0 58.0 −34.5 % 66.0 66.0 0.70 0.70" in page.text


def test_the_published_efficiency_example_is_corrected(page):
    assert "printed there with 0.25; the formula gives 0.1 × 0.5 = 0.05" in page.text


def test_tables_name_their_rows_and_columns_and_plots_have_words(page):
    heads = [found for tag, found in page.tags if tag == "th"]
    assert heads
    assert all(found.get("scope") in ("row", "col") for found in heads)
    pictures = [found for _, found in page.tags if found.get("role") == "img"]
    assert len(pictures) == 7  # two scatters, the front, and of each family a heat strip and its ranges
    assert all(len(found["aria-label"]) > 20 for found in pictures)


def test_the_search_is_told_with_its_reasons_layers_and_ranges(page):
    assert "dense.mixed-1 is the smallest whose loss is certified." in page.text
    assert "needs about 7,400 rows" in page.text
    assert "Kullback-Leibler divergence" in page.text
    assert "net/relu_0/Relu: 0 to 3.5" in page.text
    assert "(FULLY_CONNECTED) in w4: divergence 0.03" in page.text


def test_the_family_of_the_chosen_file_comes_first_and_open(html):
    assert html.index("dense: what each layer minds") < html.index("p50 onnx: what each layer minds")


def test_changed_rows_groups_and_noisy_tensors_are_told(page):
    assert "73 of 4,500 41 32 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, …" in page.text
    assert "The backup loses most where age is 21 to 34: +0.0050 on 900 rows." in page.text
    assert "18.2 dB at worst, of 8 compared" in page.text


def test_the_storage_of_each_layer_of_the_pair_is_told_with_shares(facts, page):
    assert page.text.count("How each layer is stored") == 1
    for role, card in facts.chosen.items():
        shares = "75.0 % of the weights' bytes in int8, 25.0 % of the weights' bytes in int4 in blocks"
        assert f"{role.value}, {card.candidate}: {shares}" in page.text
    assert "net/table/<Gather>" in page.text


def test_marks_and_cells_have_figures_to_point_at(html):
    assert "<title>p50.w8d: loss +0.0009" in html
    assert "<title>dense, dense.mixed-1: 60,000 bytes, divergence 0.003 (predicted 0.002), loss +0.0010" in html


def test_a_page_without_search_or_diagnoses_has_neither_section(facts, without_plots):
    bare = dataclasses.replace(facts, diagnoses={}, findings=None)
    assert "What the search found" not in whole_page(bare)
    assert "Where it differs" not in whole_page(bare)
    assert "How each layer" not in whole_page(dataclasses.replace(bare, operators={}))


def test_names_of_tensors_stay_text(html):
    assert "&lt;MatMul&gt;" in html
    assert "<MatMul>" not in html


def test_among_many_candidates_plots_name_the_chosen_the_reference_and_the_unbeaten(facts, monkeypatch):
    drawn = []
    monkeypatch.setattr(page_module, "_NAMES_SHOWN", 3)
    monkeypatch.setattr(page_module, "scatter", lambda points, *_: drawn.append(points) or "<svg></svg>")
    whole_page(facts)
    named = {point.name for point in drawn[0] if point.named}
    assert {"p50.f32", "p50.w8d", "dense.f32"} <= named
    assert "dense.w8a8" not in named


def test_a_loss_beyond_the_plot_is_written_with_its_figure(page):
    assert "dense.w8a8 ↑ 0.0422" in page.text


def test_a_model_whose_candidates_are_all_dense_says_nothing_of_zeros(facts, without_plots):
    kept = tuple(card for card in facts.cards if card.variant == "dense")
    dense = [card.candidate for card in kept if facts.verdict(card.candidate).eligible]
    selected = dataclasses.replace(facts.selected, primary=dense[0], backup=dense[1])
    assert "zeros of pruning" not in whole_page(dataclasses.replace(facts, cards=kept, selected=selected))


def test_the_locked_rows_list_the_primary_first(facts, page):
    first, second = (f"{role} {card.candidate} 4,500" for role, card in facts.chosen.items())
    assert 0 < page.text.index(first) < page.text.index(second)


def test_a_primary_that_is_the_float_model_is_said_to_lose_nothing(facts):
    sentence = words.role_sentence(Role.PRIMARY, facts.recipe.select.primary.prefer, facts.reference, facts.reference)
    assert sentence.endswith("It is the float reference itself, so it loses nothing.")


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (0.00123, "+0.0012"), (-0.5, "−0.5000")])
def test_losses_carry_their_sign(value, text):
    assert words.signed(value) == text
