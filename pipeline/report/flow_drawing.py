"""The flow of a drill as SVG text: the places of ``drill.flow``, the way that was taken thick, with its times. Pure.

The page may load no script, so that the Mermaid text beside it is drawn here; the places and arrows are always the
same ones, each has its spot.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from markupsafe import escape

from pipeline.drill.flow import PLACES, Flow, FlowStep
from pipeline.report.drill_words import milliseconds
from pipeline.report.plots import INK, QUIET

_WIDTH, _HEIGHT = 900, 350
_HALF = 19
_LINE = 12.5

# centre x, width; centre y
_COLUMNS = {"a": (56, 100), "b": (190, 134), "c": (337, 122), "d": (560, 124), "e": (830, 124)}
_ROWS = (32, 122, 216, 312)
_SPOTS: Mapping[str, tuple[str, int]] = {
    "training": ("a", 0),
    "preparation": ("b", 0),
    "deploy": ("c", 0),
    "service": ("e", 0),
    "drill": ("c", 1),
    "switch": ("c", 2),
    "restored": ("d", 2),
    "troubleshooting": ("c", 3),
    "recovery": ("e", 2),
}


@dataclass(frozen=True)
class Route:
    """An arrow's corners, and where its words stand: x, y of the first line and the text anchor."""

    corners: tuple[tuple[float, float], ...]
    label: tuple[float, float, str]


_TOP, _UP, _MID, _LOW = _ROWS
ROUTES: Mapping[tuple[str, str], Route] = {
    ("training", "preparation"): Route(((106, _TOP), (123, _TOP)), (114, _TOP - 6, "middle")),
    ("preparation", "deploy"): Route(((257, _TOP), (276, _TOP)), (266, _TOP - 6, "middle")),
    ("deploy", "service"): Route(((398, _TOP), (768, _TOP)), (583, _TOP - 6, "middle")),
    ("deploy", "drill"): Route(((337, _TOP + _HALF), (337, _UP - _HALF)), (345, 80, "start")),
    ("drill", "service"): Route(((398, _UP - 9), (790, _UP - 9), (790, _TOP + _HALF)), (590, _UP - 15, "middle")),
    ("service", "drill"): Route(((818, _TOP + _HALF), (818, _UP + 9), (398, _UP + 9)), (590, _UP + 22, "middle")),
    ("drill", "switch"): Route(((337, _UP + _HALF), (337, _MID - _HALF)), (345, 166, "start")),
    ("switch", "restored"): Route(((398, _MID), (498, _MID)), (448, _MID - 18, "middle")),
    ("switch", "troubleshooting"): Route(((337, _MID + _HALF), (337, _LOW - _HALF)), (345, 266, "start")),
    ("restored", "recovery"): Route(((622, _MID), (768, _MID)), (695, _MID - 18, "middle")),
    ("troubleshooting", "recovery"): Route(((398, _LOW), (830, _LOW), (830, _MID + _HALF)), (610, _LOW - 18, "middle")),
    ("recovery", "service"): Route(((866, _MID - _HALF), (866, _TOP + _HALF)), (860, 160, "end")),
}


def draw_flow(key: str, flow: Flow) -> str:
    """Draw a flow; ``key`` keeps its arrow heads apart from others of the page."""
    reached = {place for step in flow.taken for place in (step.source, step.target)}
    ordered = sorted(flow.steps, key=lambda step: step.is_taken)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-size="11.5">',
        "<defs>",
        _head(f"{key}-taken", INK, 5.0),
        _head(f"{key}-not", QUIET, 7.0),
        "</defs>",
        *(_line(key, step) for step in ordered),
        *(_place(place, name, place in reached) for place, name in PLACES.items()),
        *(part for step in ordered for part in _label(step)),
        "</svg>",
    ]
    return "".join(parts)


def _head(identity: str, colour: str, size: float) -> str:
    return (
        f'<marker id="{identity}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="{size}" markerHeight="{size}" '
        f'orient="auto"><path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
    )


def _line(key: str, step: FlowStep) -> str:
    corners = ROUTES[step.source, step.target].corners
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in corners)
    if step.is_taken:
        return f'<path d="{path}" fill="none" stroke="{INK}" stroke-width="2.6" marker-end="url(#{key}-taken)"/>'
    style = f'stroke="{QUIET}" stroke-width="1" stroke-dasharray="4 3"'
    return f'<path d="{path}" fill="none" {style} marker-end="url(#{key}-not)"/>'


def _place(place: str, name: str, is_reached: bool) -> str:
    column, row = _SPOTS[place]
    x, width = _COLUMNS[column]
    style = f'stroke="{INK}" stroke-width="2"' if is_reached else f'stroke="{QUIET}" stroke-dasharray="4 3"'
    box = f'x="{x - width / 2:g}" y="{_ROWS[row] - _HALF}" width="{width}" height="{2 * _HALF}" rx="4"'
    weight = ' font-weight="600"' if is_reached else ""
    colour = INK if is_reached else QUIET
    return (
        f'<rect {box} fill="#fff" {style}/>'
        f'<text x="{x}" y="{_ROWS[row] + 4}" text-anchor="middle" fill="{colour}"{weight}>{escape(name)}</text>'
    )


def _label(step: FlowStep) -> Iterator[str]:
    """Write what leads along an arrow and, where it was taken and timed, how long after the strike."""
    x, y, anchor = ROUTES[step.source, step.target].label
    lines = [step.text] if step.text else []
    if step.is_taken and step.took_ms is not None:
        lines.append(f"{milliseconds(step.took_ms)} after" if step.took_ms else "at once")
    if len(lines) < 2 and y in (_MID - 18, _LOW - 18):
        y += _LINE  # one line stands right above its arrow
    for number, words in enumerate(lines):
        weight = ' font-weight="600"' if number else ""
        colour = INK if step.is_taken else QUIET
        yield (
            f'<text x="{x:g}" y="{y + number * _LINE:g}" text-anchor="{anchor}" fill="{colour}" font-size="11"'
            f'{weight} stroke="#fff" stroke-width="3" paint-order="stroke">{escape(words)}</text>'
        )
