"""The timeline of one drill as SVG text: every answer by its latency, every event, and who served. Pure.

Readable in black and white: roles differ in shape and pattern, outcomes in their mark, what the drill did is filled.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from markupsafe import escape

from pipeline.core.names import Role
from pipeline.drill.measures import Span
from pipeline.drill.nouns import Moment, MomentKind, Observed, Outcome, Request
from pipeline.report.plots import COLOURS, INK, QUIET, RULE

_WIDTH, _LEFT, _RIGHT = 900, 72, 16
_LANE, _LANES = 19, 4
_UNANSWERED, _PLOT, _STRIP = 34, 210, 22
_BADGE = 8
_LABEL_CHAR = 6.1
_DECADES_LEAST = 2
_TICKS = 8


@dataclass(frozen=True)
class Mark:
    """How requests of one kind are drawn; ``name`` stands in the legend."""

    name: str
    colour: str
    glyph: str


ROLE_MARKS = {
    Role.PRIMARY: Mark("answered by the primary", COLOURS[Role.PRIMARY], "dot"),
    Role.BACKUP: Mark("answered by the backup", COLOURS[Role.BACKUP], "square"),
}
OUTCOME_MARKS = {
    Outcome.WRONG: Mark("wrong answer", INK, "triangle"),
    Outcome.LOST: Mark("lost", INK, "cross"),
    Outcome.ABSTAINED: Mark("withheld", INK, "diamond"),
    Outcome.REFUSED: Mark("refused", INK, "plus"),
}
_NOBODY = Mark("answered, by whom is not said", QUIET, "dot")
_STROKES = {"dot": ("round", 3.6), "square": ("square", 3.8)}


@dataclass(frozen=True)
class _Frame:
    """Where things are: from ms to pixels."""

    key: str
    end_ms: float
    low_ms: float
    high_ms: float

    @property
    def top(self) -> float:
        return _LANE * _LANES + 8

    @property
    def plot_top(self) -> float:
        return self.top + _UNANSWERED

    @property
    def plot_bottom(self) -> float:
        return self.plot_top + _PLOT

    def x(self, at_ms: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * min(1.0, max(0.0, at_ms / self.end_ms))

    def y(self, latency_ms: float) -> float:
        place = math.log(max(latency_ms, self.low_ms) / self.low_ms) / math.log(self.high_ms / self.low_ms)
        return self.plot_bottom - _PLOT * min(1.0, place)


def timeline(key: str, observed: Observed, spans: Sequence[Span], load_ms: float, events: Sequence[Moment]) -> str:
    """Draw a play; ``key`` keeps its patterns apart from others of the page, ``events`` get numbers from 1."""
    frame = _frame(key, observed, load_ms)
    height = frame.plot_bottom + 3 * _STRIP + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" '
        f'height="{height:g}" font-size="11">',
        _patterns(key),
        *_bands(frame, events),
        *_axes(frame),
        *_event_lines(frame, events),
        *_requests(frame, observed.requests),
        *_phases(frame, spans),
        *_serving(frame, observed),
        *_badges(frame, events),
        *_legend(observed.requests, height - 14),
        "</svg>",
    ]
    return "".join(parts)


def _frame(key: str, observed: Observed, load_ms: float) -> _Frame:
    took = [one.latency_ms for one in observed.requests if one.latency_ms is not None and one.latency_ms > 0]
    last = max([load_ms, *(one.at_ms for one in observed.moments)])
    low = 10.0 ** math.floor(math.log10(min(took, default=1.0)))
    high = max(low * 10**_DECADES_LEAST, 10.0 ** math.ceil(math.log10(max(took, default=100.0) * 1.0001)))
    return _Frame(key, last or 1.0, low, high)


def _patterns(key: str) -> str:
    hatch = (
        f'<pattern id="{key}-backup" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        f'<rect width="7" height="7" fill="#fff"/><rect width="3" height="7" fill="{COLOURS[Role.BACKUP]}"/></pattern>'
    )
    band = (
        f'<pattern id="{key}-band" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(-45)">'
        '<rect width="1.2" height="6" fill="#c3c8d0"/></pattern>'
    )
    return f"<defs>{hatch}{band}</defs>"


def _bands(frame: _Frame, events: Sequence[Moment]) -> Iterator[str]:
    """Shade from a strike until the drill took it back."""
    ended = {one.strike: one.at_ms for one in events if one.kind is MomentKind.ENDED}
    for one in events:
        if one.kind is MomentKind.STRUCK and one.strike in ended:
            left, right = frame.x(one.at_ms), frame.x(ended[one.strike])
            place = f'x="{left:.1f}" y="{frame.top:g}" width="{max(1.0, right - left):.1f}"'
            yield f'<rect {place} height="{frame.plot_bottom - frame.top:g}" fill="url(#{frame.key}-band)"/>'


def _axes(frame: _Frame) -> Iterator[str]:
    right = _WIDTH - _RIGHT
    decade = frame.low_ms
    while decade <= frame.high_ms * 1.001:
        y = frame.y(decade)
        yield f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{RULE}"/>'
        yield _text(_LEFT - 7, y + 4, f"{decade:g} ms", "end", QUIET)
        decade *= 10
    yield _text(_LEFT - 7, frame.top + _UNANSWERED / 2 + 2, "no answer", "end", QUIET)
    yield f'<line x1="{_LEFT}" x2="{right}" y1="{frame.plot_bottom:g}" y2="{frame.plot_bottom:g}" stroke="{INK}"/>'
    step = _nice_step(frame.end_ms / _TICKS)
    for number in range(int(frame.end_ms / step) + 1):
        x, seconds = frame.x(number * step), number * step / 1000
        yield f'<path d="M{x:.1f} {frame.plot_bottom:g}v4" stroke="{INK}"/>'
        yield _text(x, frame.plot_bottom + 16, f"{seconds:g} s", "middle", QUIET)


def _nice_step(least: float) -> float:
    scale = 10.0 ** math.floor(math.log10(least))
    return next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= least)


def _event_lines(frame: _Frame, events: Sequence[Moment]) -> Iterator[str]:
    for one in events:
        x = frame.x(one.at_ms)
        is_ours = one.kind in (MomentKind.STRUCK, MomentKind.ENDED)
        style = 'stroke-width="1.6"' if is_ours else 'stroke-width="0.8" stroke-dasharray="3 3"'
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{frame.top:g}" y2="{frame.plot_bottom:g}" stroke="{INK}" {style}/>'


def _requests(frame: _Frame, requests: Sequence[Request]) -> Iterator[str]:
    """Draw answers as one path a role, and every other outcome with a mark of its own, on top."""
    by_role: dict[Role | None, set[tuple[int, int]]] = {}
    for one in requests:
        if one.outcome is Outcome.RIGHT and one.latency_ms is not None:
            # Two answers on one spot are one mark: the page stays small however many there are.
            by_role.setdefault(one.role, set()).add(_spot(frame, one))
    for role in (None, Role.PRIMARY, Role.BACKUP):
        if role in by_role:
            mark = ROLE_MARKS[role] if role else _NOBODY
            cap, width = _STROKES[mark.glyph]
            path = "".join(f"M{x} {y}h0" for x, y in sorted(by_role[role]))
            yield (
                f'<path d="{path}" stroke="{mark.colour}" stroke-width="{width}" stroke-linecap="{cap}" '
                'stroke-opacity="0.75" fill="none"/>'
            )
    for outcome, mark in OUTCOME_MARKS.items():
        spots = {_spot(frame, one) for one in requests if one.outcome is outcome}
        yield "".join(_glyph(mark, x, y) for x, y in sorted(spots))


def _spot(frame: _Frame, one: Request) -> tuple[int, int]:
    has_place = one.outcome in (Outcome.RIGHT, Outcome.WRONG) and one.latency_ms is not None
    y = frame.y(one.latency_ms or 0.0) if has_place else frame.top + _UNANSWERED / 2
    return round(frame.x(one.due_ms)), round(y)


def _glyph(mark: Mark, x: float, y: float) -> str:
    line = f'fill="none" stroke="{mark.colour}" stroke-width="1.6"'
    shapes = {
        "triangle": f'<path d="M{x} {y - 5}l5 9h-10z" fill="{mark.colour}" stroke="#fff" stroke-width="0.7"/>',
        "cross": f'<path d="M{x - 4} {y - 4}l8 8m0 -8l-8 8" {line}/>',
        "diamond": f'<path d="M{x} {y - 5}l5 5l-5 5l-5 -5z" fill="#fff" stroke="{mark.colour}" stroke-width="1.3"/>',
        "plus": f'<path d="M{x} {y - 5}v10m-5 -5h10" {line}/>',
        "dot": f'<circle cx="{x}" cy="{y}" r="2.2" fill="{mark.colour}"/>',
        "square": f'<rect x="{x - 3.4}" y="{y - 3.4}" width="6.8" height="6.8" fill="{mark.colour}"/>',
    }
    return shapes[mark.glyph]


def _phases(frame: _Frame, spans: Sequence[Span]) -> Iterator[str]:
    top = frame.plot_bottom + 26
    for span in spans:
        left, right = frame.x(span.since_ms), frame.x(span.until_ms)
        if right - left < 1:
            continue
        y = top + 5
        yield (f'<path d="M{left + 1:.1f} {y - 4:g}v8m0 -4H{right - 1:.1f}m0 -4v8" fill="none" stroke="{QUIET}"/>')
        if right - left > len(span.name) * _LABEL_CHAR + 10:
            middle, width = (left + right) / 2, len(span.name) * _LABEL_CHAR + 6
            yield f'<rect x="{middle - width / 2:.1f}" y="{y - 7:g}" width="{width:.1f}" height="14" fill="#fff"/>'
            yield _text(middle, y + 4, span.name, "middle", INK)


def _serving(frame: _Frame, observed: Observed) -> Iterator[str]:
    top = frame.plot_bottom + 26 + 16
    yield _text(_LEFT - 7, top + 15, "serves", "end", QUIET)
    ends = [*(since for since, _, _ in observed.serving[1:]), frame.end_ms]
    for (since, role, term), until in zip(observed.serving, ends, strict=False):
        left, right = frame.x(since), frame.x(until)
        words = f"{role}, term {term}" if role else "nobody"
        place = f'x="{left:.1f}" y="{top:g}" width="{max(1.0, right - left):.1f}" height="{_STRIP}"'
        yield f"<rect {place} {_filling(frame, role)}><title>{escape(words)}</title></rect>"
        room, middle = right - left, (left + right) / 2
        shown = next((text for text in (words, str(role or "")) if len(text) * _LABEL_CHAR + 8 < room), "")
        if shown:
            width = len(shown) * _LABEL_CHAR + 8
            if role is not Role.PRIMARY:
                place = f'x="{middle - width / 2:.1f}" y="{top + 3:g}" width="{width:.1f}"'
                yield f'<rect {place} height="16" fill="#fff"/>'
            yield _text(middle, top + 15, shown, "middle", "#fff" if role is Role.PRIMARY else INK)


def _filling(frame: _Frame, role: Role | None) -> str:
    if role is None:
        return f'fill="#fff" stroke="{INK}" stroke-dasharray="4 2"'
    if role is Role.BACKUP:
        return f'fill="url(#{frame.key}-backup)" stroke="{COLOURS[role]}"'
    return f'fill="{COLOURS[role]}" stroke="{COLOURS[role]}"'


def _badges(frame: _Frame, events: Sequence[Moment]) -> Iterator[str]:
    """Put every event's number above the plot, in the first lane with room; what the drill did is named there."""
    free = [0.0] * _LANES
    for number, one in enumerate(events, 1):
        x = frame.x(one.at_ms)
        label = one.text if one.kind is MomentKind.STRUCK else ""
        room = 2 * _BADGE + 3 + (len(label) * _LABEL_CHAR + 4 if label else 0)
        if x + room > _WIDTH:
            label, room = "", 2 * _BADGE + 3
        fallback = min(range(_LANES), key=lambda index: free[index])
        lane = next((lane for lane, end in enumerate(free) if end <= x - _BADGE), fallback)
        place = max(x, free[lane] + _BADGE)  # a crowd of events is spread to the right of where it was
        free[lane] = place - _BADGE + room
        yield from _badge((place, x), lane, number, one, label, frame)


def _badge(
    places: tuple[float, float], lane: int, number: int, one: Moment, label: str, frame: _Frame
) -> Iterator[str]:
    x, foot = places
    y = _BADGE + 2 + lane * _LANE
    is_ours = one.kind in (MomentKind.STRUCK, MomentKind.ENDED)
    yield f'<path d="M{x:.1f} {y:g}L{foot:.1f} {frame.top:g}" stroke="{QUIET}" stroke-width="0.6"/>'
    fill, ink = (INK, "#fff") if is_ours else ("#fff", INK)
    title = f"<title>{escape(f'{one.at_ms:.0f} ms: {one.kind}: {one.text}')}</title>"
    yield f'<circle cx="{x:.1f}" cy="{y:g}" r="{_BADGE}" fill="{fill}" stroke="{INK}">{title}</circle>'
    yield _text(x, y + 3.5, str(number), "middle", ink, 9.5)
    if label:
        width = len(label) * _LABEL_CHAR + 4
        place = f'x="{x + _BADGE + 1:.1f}" y="{y - 7:g}" width="{width:.1f}"'
        yield f'<rect {place} height="14" fill="#fff" opacity="0.85"/>'
        yield _text(x + _BADGE + 3, y + 4, label, "start", INK)


def _legend(requests: Iterable[Request], y: float) -> Iterator[str]:
    found = list(requests)
    roles = {one.role for one in found if one.outcome is Outcome.RIGHT}
    outcomes = {one.outcome for one in found}
    marks = [mark for role, mark in ROLE_MARKS.items() if role in roles]
    marks += [_NOBODY] if None in roles else []
    marks += [mark for outcome, mark in OUTCOME_MARKS.items() if outcome in outcomes]
    x = float(_LEFT)
    for mark in marks:
        yield _glyph(mark, round(x + 4), round(y - 4))
        yield _text(x + 14, y, mark.name, "start", INK)
        x += 14 + len(mark.name) * _LABEL_CHAR + 16


def _text(x: float, y: float, words: str, anchor: str, fill: str, size: float = 11) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size:g}" '
        f'pointer-events="none">{escape(words)}</text>'
    )
