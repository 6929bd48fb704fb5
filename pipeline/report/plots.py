"""The report's plots as SVG text: equal values give equal bytes, and shapes carry what colours do."""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, NullFormatter
from matplotlib.transforms import Bbox

from pipeline.core.names import Role

INK, QUIET, RULE = "#1b1f24", "#6b7280", "#d5d9e0"
# Okabe and Ito's blue and vermillion: told apart with any colour vision, and in grey by their lightness.
COLOURS = {Role.PRIMARY: "#0072b2", Role.BACKUP: "#d55e00"}
SHAPES = ("o", "s", "D", "^", "v", "P", "X")
_WIDTH_IN, _HEIGHT_IN = 7.6, 4.2
_POINTS_PER_INCH = 72  # the unit of SVG output, so that labels are placed in the layout that is written
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
}
_LABEL_OFFSETS = tuple((dx, dy) for dy in (-3, 9, -15, 21, -27, 33, -39, 45) for dx in (8, -8))
_NEAR_POINTS = 10  # labels farther off than this get a thin line to their point


@dataclass(frozen=True)
class Point:
    """One candidate in a plot: ``low`` and ``high`` end its bar in y; ``named`` writes its name beside it."""

    name: str
    variant: str
    x: float
    y: float
    low: float
    high: float
    role: Role | None
    eligible: bool
    named: bool = True
    hover: str = ""  # what a browser shows over the mark; its name where empty


@dataclass(frozen=True)
class Limit:
    """A budget, drawn as a labelled line at ``y``."""

    y: float
    label: str


def scatter(points: Sequence[Point], x_label: str, y_label: str, limit: Limit | None, y_most: float = math.inf) -> str:
    """Draw candidates over a logarithmic x axis; those above ``y_most`` sit at the upper edge with their figure.

    Returns an ``<svg>`` element without ids that nothing refers to, so that several fit into one page.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": y_label}):  # ids differ from plot to plot of one page
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_POINTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        _frame(axes, x_label, y_label)
        _set_limits(axes, points, limit, y_most)
        _draw_limit(axes, limit)
        shapes = _shapes(points)
        drawn = sorted(points, key=lambda p: (p.role is not None, p.eligible, p.name))
        for index, point in enumerate(drawn):
            _draw(axes, point, shapes[point.variant], y_most, f"point-{index}")
        _legend(axes, shapes, points)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        _label(axes, points, y_most)
        return _svg(figure, {f"point-{index}": point.hover or point.name for index, point in enumerate(drawn)})


@dataclass(frozen=True)
class Found:
    """One file of a search: its size in kB, and its divergence as predicted and as measured."""

    name: str
    family: str
    kb: float
    predicted: float
    measured: float
    certified: bool | None
    chosen: bool


def front(found: Sequence[Found], measure: str) -> str:
    """Draw predicted (hollow) and measured (filled) divergences over sizes, both logarithmic; the chosen is named."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": "front"}):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), dpi=_POINTS_PER_INCH, layout="constrained")
        axes = figure.add_subplot()
        _frame(axes, "file size, kB (logarithmic)", f"divergence ({measure}, logarithmic)")
        axes.set_yscale("log")
        least = min([value for item in found for value in (item.predicted, item.measured) if value > 0], default=1e-6)
        families = {name: SHAPES[place % len(SHAPES)] for place, name in enumerate(sorted({f.family for f in found}))}
        for index, item in enumerate(found):
            _draw_found(axes, item, families[item.family], least / 3, index)
        _size_ticks(axes, [item.kb for item in found])
        for family, shape in families.items():
            axes.plot([], [], shape, markerfacecolor="white", markeredgecolor=INK, linestyle="none", label=family)
        figure.legend(loc="outside upper left", ncols=6, frameon=False, handletextpad=0.2, columnspacing=1.4)
        return _svg(figure, {f"found-{index}": item.name for index, item in enumerate(found)})


def _draw_found(axes: Axes, item: Found, shape: str, floor: float, index: int) -> None:
    colour = COLOURS[Role.BACKUP] if item.chosen else INK if item.certified else QUIET
    ends = [max(item.predicted, floor), max(item.measured, floor)]
    axes.plot([item.kb, item.kb], ends, color=colour, linewidth=0.8, alpha=0.6)
    axes.plot([item.kb], ends[:1], shape, markersize=5, markerfacecolor="white", markeredgecolor=colour)
    axes.plot([item.kb], ends[1:], shape, markersize=9 if item.chosen else 6, color=colour, gid=f"found-{index}")
    if item.chosen:
        place = (item.kb, ends[1])
        axes.annotate("chosen", place, (8, -3), textcoords="offset points", size=8.5, color=colour, weight="bold")


def _size_ticks(axes: Axes, sizes: Sequence[float]) -> None:
    least, most = min(sizes), max(sizes)
    spread = max((most / least) ** 0.08, 1.05)
    axes.set_xlim(least / spread, most * spread)
    decades = [digit * 10**power for power in range(-3, 10) for digit in (1, 1.5, 2, 3, 4, 5, 7)]
    axes.set_xticks([tick for tick in decades if least / spread <= tick <= most * spread])


def _frame(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xscale("log")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(visible=True, color=RULE, linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _set_limits(axes: Axes, points: Sequence[Point], limit: Limit | None, y_most: float) -> None:
    lowest, highest = min(p.low for p in points), max(p.high for p in points)
    if limit is not None:
        highest = max(highest, limit.y)
    highest = min(highest, y_most)
    margin = 0.08 * (highest - lowest) or 0.1
    axes.set_ylim(lowest - margin, highest + margin)
    least, most = min(p.x for p in points), max(p.x for p in points)
    spread = max((most / least) ** 0.12, 1.08)
    axes.set_xlim(least / spread, most * spread**1.6)
    decades = [digit * 10**power for power in range(-3, 10) for digit in (1, 1.5, 2, 3, 4, 5, 7)]
    axes.set_xticks([tick for tick in decades if least / spread <= tick <= most * spread**1.6])


def _draw_limit(axes: Axes, limit: Limit | None) -> None:
    if limit is not None:
        axes.axhline(limit.y, color=INK, linewidth=1, linestyle=(0, (5, 3)))
        place = (1.0, limit.y)
        axes.annotate(
            limit.label, place, (0, 3), axes.get_yaxis_transform(), "offset points", ha="right", va="bottom", color=INK
        )


def _draw(axes: Axes, point: Point, shape: str, y_most: float, identity: str) -> None:
    colour = _colour(point)
    y, top = min(point.y, y_most), min(point.high, y_most)
    if point.high > point.low:
        axes.plot([point.x, point.x], [min(point.low, y), top], color=colour, linewidth=1.1, alpha=0.75)
    axes.plot(
        [point.x],
        [y],
        shape,
        markersize=9 if point.role else 6.5,
        markerfacecolor=colour if point.role else "white",
        markeredgecolor=colour,
        markeredgewidth=1.3,
        linestyle="none",
        gid=identity,
    )
    if not point.eligible:
        axes.plot([point.x], [y], "x", markersize=4, color=colour, linestyle="none")


def _shapes(points: Sequence[Point]) -> dict[str, str]:
    variants = sorted({point.variant for point in points})
    return {variant: SHAPES[index % len(SHAPES)] for index, variant in enumerate(variants)}


def _legend(axes: Axes, shapes: dict[str, str], points: Sequence[Point]) -> None:
    for variant, shape in shapes.items():
        axes.plot([], [], shape, markerfacecolor="white", markeredgecolor=INK, linestyle="none", label=variant)
    if not all(point.eligible for point in points):
        axes.plot([], [], "x", color=QUIET, linestyle="none", label="over a budget")
    axes.figure.legend(loc="outside upper left", ncols=6, frameon=False, handletextpad=0.2, columnspacing=1.4)


def _label(axes: Axes, points: Sequence[Point], y_most: float) -> None:
    """Write each name beside its point, the chosen first, where it covers no other name or point."""
    taken = [_box(axes, point, y_most) for point in points]
    named = [point for point in points if point.named]
    for point in sorted(named, key=lambda p: (p.role is None, not p.eligible, p.x, p.name)):
        text = f"{point.name} ↑ {point.y:.3g}" if point.y > y_most else point.name
        taken.append(_place(axes, point, text, (point.x, min(point.y, y_most)), taken))


def _place(axes: Axes, point: Point, text: str, at: tuple[float, float], taken: Sequence[Bbox]) -> Bbox:
    """Try the offsets in turn and keep the first that is free, or else the last."""
    inside = axes.get_window_extent()
    for offset in _LABEL_OFFSETS:
        note = _note(axes, point, text, at, offset)
        box = note.get_window_extent()
        free = not any(box.overlaps(other) for other in taken)
        if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1:
            break
        if offset != _LABEL_OFFSETS[-1]:
            note.remove()
    if abs(offset[1]) > _NEAR_POINTS:
        line = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.5}
        axes.annotate("", at, (offset[0], offset[1] + 3), textcoords="offset points", arrowprops=line)
    return box


def _note(axes: Axes, point: Point, text: str, at: tuple[float, float], offset: tuple[int, int]) -> Annotation:
    return axes.annotate(
        text,
        at,
        offset,
        textcoords="offset points",
        ha="left" if offset[0] > 0 else "right",
        size=8.5,
        color=_colour(point),
        weight="bold" if point.role else "normal",
    )


def _colour(point: Point) -> str:
    if point.role:
        return COLOURS[point.role]
    return INK if point.eligible else QUIET


def _box(axes: Axes, point: Point, y_most: float) -> Bbox:
    x, y = axes.transData.transform((point.x, min(point.y, y_most)))
    return Bbox.from_extents(x - 5, y - 5, x + 5, y + 5)


def _svg(figure: Figure, titles: Mapping[str, str]) -> str:
    """Return the figure as text, with a title in each named part for browsers to show."""
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    for identity, title in titles.items():
        text = text.replace(f'<g id="{identity}">', f"<g><title>{escape(title)}</title>", 1)
    referred = set(re.findall(r"#([\w-]+)", text))
    return re.sub(r' id="([^"]+)"', lambda found: found.group(0) if found.group(1) in referred else "", text)
