"""Strips are well-formed SVG for any search: no layers, one divergence, names of any kind."""

import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.core.findings import FamilyFinding, GroupFinding, SchemeCost
from pipeline.core.names import Format, Scheme
from pipeline.report.strips import RANGES_SHOWN, Scale, heat_strip, range_strip, short

TITLE = "{http://www.w3.org/2000/svg}title"


def family(*groups):
    return FamilyFinding("dense", Format.TFLITE, 1000, "kl", groups, ())


def group(name, *divergences):
    costs = tuple(SchemeCost(scheme, 10, value) for scheme, value in zip(Scheme, divergences, strict=False))
    return GroupFinding(name, "CONV_2D", 5, 0, costs)


@pytest.mark.parametrize(
    "groups", [(), (group("a"),), (group("a", 0.0, 0.0),), (group("<a & b>", 1.0), group("c", 1e-12, 5.0, 0.1))]
)
def test_any_groups_make_well_formed_strips(groups):
    root = ElementTree.fromstring(heat_strip(family(*groups), {}))  # noqa: S314 - our own output
    titles = [item.text for item in root.iter(TITLE)]
    assert len(titles) == sum(1 + len(item.costs) for item in groups)


def test_more_divergence_is_darker_and_none_is_the_lightest():
    scale = Scale.over((group("a", 0.0, 1e-4, 1e-2, 1.0),))
    places = [scale.place(value) for value in (0.0, 1e-4, 1e-2, 1.0)]
    assert places == pytest.approx([0, 0, 0.5, 1])


def test_the_widest_ranges_are_drawn_and_the_others_left_out():
    ranges = {f"tensor_{index}": (-float(index), index / 2) for index in range(RANGES_SHOWN + 5)}
    titles = [item.text for item in ElementTree.fromstring(range_strip(ranges)).iter(TITLE)]  # noqa: S314
    assert len(titles) == RANGES_SHOWN
    assert titles[0] == f"tensor_{RANGES_SHOWN + 4}: {-RANGES_SHOWN - 4} to {(RANGES_SHOWN + 4) / 2:g}"


def test_long_names_keep_their_telling_end():
    assert short("a" * 30 + "/MatMul;b;c", 10) == "…aa/MatMul"
