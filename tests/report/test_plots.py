"""Plots are reproducible SVG that names every candidate, whatever the figures."""

import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.core.names import Role
from pipeline.report.plots import Limit, Point, scatter

SVG_TEXT = "{http://www.w3.org/2000/svg}text"


@pytest.mark.parametrize(
    ("rows", "limit"),
    [
        ([(232.0, 0.0, 0.0)], None),
        ([(232.0, 0.0, 0.0)], 0.0),
        ([(232.0, 0.0, 0.0)] * 12, 0.01),
        ([(0.4, -0.1, 0.2), (90_000.0, 0.9, 0.3), (5.0, 0.2, 0.0)], 0.01),
        ([(1456.0, 0.0, 0.0), (371.0, -0.00001, 0.00002)], 0.01),
    ],
)
def test_any_candidates_make_well_formed_svg_that_names_each(rows, limit):
    points = [
        Point(f"c{index}.", "dense" if index % 2 else "p50", kb, y, y - width, y + width, None, index % 3 > 0)
        for index, (kb, y, width) in enumerate(rows)
    ]
    text = scatter(points, "size", "loss", None if limit is None else Limit(limit, "the limit"), 0.7)
    root = ElementTree.fromstring(text)  # noqa: S314 - our own output
    shown = " ".join("".join(item.itertext()) for item in root.iter(SVG_TEXT))
    assert all(point.name in shown for point in points)
    assert ("the limit" in shown) == (limit is not None)


def test_equal_points_give_equal_bytes_without_dates_or_loads():
    points = [Point("dense.f32", "dense", 10.0, 0.0, 0.0, 0.0, Role.PRIMARY, True)]
    first = scatter(points, "size", "loss", None)
    assert first == scatter(points, "size", "loss", None)
    assert "<metadata" not in first
    assert "href" not in first.replace('xlink:href="#', "")
