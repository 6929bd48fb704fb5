"""Strips of a search as SVG text: what each weight group costs in each number format, and calibrated ranges. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import escape

from pipeline.core.findings import FamilyFinding, GroupFinding, SchemeCost
from pipeline.core.names import Scheme
from pipeline.report.plots import INK, QUIET, RULE

RANGES_SHOWN = 40
_LIGHT, _DARK = (241, 246, 250), (140, 45, 4)  # from hardly any divergence to the most
_CELL_WIDTH, _CELL_HEIGHT = 44, 22
_LEFT, _TOP, _BOTTOM, _RIGHT = 64, 66, 96, 84
_BAR_HEIGHT = 52
_DARK_TEXT_BELOW = 0.55
_ROW, _NAMES, _BARS, _FIGURES = 18, 250, 330, 150


@dataclass(frozen=True)
class Scale:
    """Divergences to 0..1 by their logarithm; nothing is 0."""

    least: float
    most: float

    @classmethod
    def over(cls, groups: Sequence[GroupFinding]) -> "Scale":
        """Span all divergences above 0, at most six decades below the largest."""
        found = [cost.divergence for group in groups for cost in group.costs if cost.divergence > 0] or [1.0]
        most = max(found)
        return cls(max(min(found), most * 1e-6), most)

    def place(self, divergence: float) -> float:
        """Return where a divergence lies, 0..1."""
        if divergence <= 0 or self.most <= self.least:
            return 0.0 if divergence <= 0 else 1.0
        return min(1.0, max(0.0, math.log(divergence / self.least) / math.log(self.most / self.least)))

    def colour(self, divergence: float) -> str:
        """Return the colour of a divergence."""
        place = self.place(divergence)
        mixed = (round(light + place * (dark - light)) for light, dark in zip(_LIGHT, _DARK, strict=True))
        return "#{:02x}{:02x}{:02x}".format(*mixed)


def heat_strip(family: FamilyFinding, assignment: Mapping[str, Scheme]) -> str:
    """Draw groups by schemes, coloured by divergence, their bytes above; the assignment's cells are framed."""
    schemes = list(dict.fromkeys(cost.scheme for group in family.groups for cost in group.costs))
    width = _LEFT + _CELL_WIDTH * len(family.groups) + _RIGHT
    height = _TOP + _CELL_HEIGHT * len(schemes) + _BOTTOM
    scale = Scale.over(family.groups)
    parts = [_open(width, height), _text(_LEFT - 8, _TOP - 6, "kB", "end", QUIET)]
    parts += [
        _text(_LEFT - 8, _TOP + _CELL_HEIGHT * index + 15, scheme, "end", INK) for index, scheme in enumerate(schemes)
    ]
    most = max((group.weight_bytes for group in family.groups), default=1) or 1
    for column, group in enumerate(family.groups):
        left = _LEFT + _CELL_WIDTH * column
        parts += _weight_bar(group, left, most)
        costs = {cost.scheme: cost for cost in group.costs}
        chosen = assignment.get(group.name, Scheme.F32)
        for row, scheme in enumerate(schemes):
            if scheme in costs:
                top = _TOP + _CELL_HEIGHT * row
                parts += _cell(group, costs[scheme], left, top, scale, framed=scheme == chosen)
        parts.append(_slanted(left + _CELL_WIDTH / 3, _TOP + _CELL_HEIGHT * len(schemes) + 10, short(group.name)))
    return "".join([*parts, "</svg>"])


def _weight_bar(group: GroupFinding, left: float, most: int) -> Iterator[str]:
    high = max(1.0, (_BAR_HEIGHT - 14) * group.weight_bytes / most)
    yield _rect(left + 8, _TOP - 4 - high, _CELL_WIDTH - 18, high, RULE, "", f"{group.name}: {group.weight_bytes:,} B")
    yield _text(left + _CELL_WIDTH / 2, _TOP - 8 - high, _brief(group.weight_bytes / 1000), "middle", QUIET, 9)


def _cell(group: GroupFinding, cost: SchemeCost, left: float, top: float, scale: Scale, framed: bool) -> Iterator[str]:
    latency = "" if cost.latency_ratio is None else f", {cost.latency_ratio:.2f} × the float file's time"
    title = f"{group.name} ({group.kind}) in {cost.scheme}: divergence {cost.divergence:.3g}, {cost.bytes:,} B{latency}"
    stroke = f' stroke="{INK}" stroke-width="2"' if framed else ""
    inset = 2 if framed else 1
    yield _rect(
        left + inset,
        top + inset,
        _CELL_WIDTH - 2 * inset,
        _CELL_HEIGHT - 2 * inset,
        scale.colour(cost.divergence),
        stroke,
        title,
    )
    colour = "#ffffff" if scale.place(cost.divergence) > _DARK_TEXT_BELOW else INK
    yield _text(left + _CELL_WIDTH / 2, top + 15, _brief(cost.divergence), "middle", colour, 9)


def range_strip(ranges: Mapping[str, Sequence[float]]) -> str:
    """Draw each activation's calibrated range as a bar around 0, the widest first; at most ``RANGES_SHOWN``."""
    spans = {name: (min(values), max(values)) for name, values in ranges.items() if len(values) > 0}
    widest = sorted(spans, key=lambda name: (-max(map(abs, spans[name])), name))[:RANGES_SHOWN]
    reach = math.asinh(max((max(map(abs, spans[name])) for name in widest), default=1.0)) or 1.0
    zero = _NAMES + _BARS / 2
    parts = [_open(_NAMES + _BARS + _FIGURES, _ROW * len(widest) + 12)]
    parts.append(f'<line x1="{zero}" x2="{zero}" y1="0" y2="{_ROW * len(widest) + 6}" stroke="{RULE}"/>')
    for row, name in enumerate(widest):
        low, high = (zero + _BARS / 2 * math.asinh(end) / reach for end in spans[name])
        words = "{:.4g} to {:.4g}".format(*(end + 0.0 for end in spans[name]))
        top = _ROW * row + 4
        parts.append(_text(_NAMES - 10, top + 11, short(name, 40), "end", INK, 10))
        parts.append(_rect(low, top + 2, max(1.0, high - low), _ROW - 7, "#0072b2", "", f"{name}: {words}"))
        parts.append(_text(_NAMES + _BARS + 10, top + 11, words, "start", QUIET, 10))
    return "".join([*parts, "</svg>"])


def short(name: str, most: int = 22) -> str:
    """Return the telling end of a tensor's or group's name, which converters make of several joined ones."""
    first = name.split(";")[0].removeprefix("StatefulPartitionedCall/")
    return first if len(first) <= most else f"…{first[-most + 1 :]}"


def _brief(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 10:
        return f"{value:.0f}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") if abs(value) < 0.001 else f"{value:.2g}"


def _open(width: float, height: float) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">'
    )


def _rect(x: float, y: float, width: float, height: float, fill: str, more: str, title: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{fill}"{more}><title>{escape(title)}</title></rect>'


def _text(x: float, y: float, words: str, anchor: str, fill: str, size: int = 11) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{fill}" font-size="{size}" pointer-events="none">{escape(words)}</text>'


def _slanted(x: float, y: float, words: str) -> str:
    turn = f'transform="rotate(40 {x:.1f} {y:.1f})"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="start" fill="{INK}" font-size="10" {turn}>{escape(words)}</text>'
    )
