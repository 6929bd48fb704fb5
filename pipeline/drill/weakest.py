"""The weakest moment of a drill: searched in the simulated world over when it strikes, and under which pair settings.

A grid over a whole period of the probes and of the scrubs, then over the gaps between strikes (against restarts) and
over how long they last (against the limits of hedging and eviction), then ever smaller steps around the worst. The same
seed finds the same.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.drill.campaign_recipe import WRITTEN
from pipeline.drill.measures import Measures, measure
from pipeline.drill.nouns import Observed, Script
from pipeline.drill.pair_settings import pair_settings
from pipeline.drill.script import format_script
from pipeline.runtime.settings import Settings

_GRID = 20  # moments a period
_PERIOD_MS_MAX = 5000  # a longer one is not awaited by a drill
_GAPS_MS = (0, 20, 50, 100, 150, 200, 300, 450, 650, 900)  # what a restart takes lies among them
_LOADS = 2  # loads a point of the first grid
_TAIL_MS = 1000  # of load after the last strike, so that restoring is seen
_DICE = 0  # what the first play of a script has: its text alone plays it again


@dataclass(frozen=True)
class WeakMoment:
    """The worst that was found for one drill under one strategy, beside the drill as it is written.

    ``script`` is the text that plays it again in the simulated world; ``when`` says what was moved.
    """

    drill: str
    strategy: str
    when: str
    plays: int
    rto_ms: float | None  # None: not restored
    rto_ms_written: float | None
    worst_ms: float
    worst_ms_written: float
    lost: int
    lost_written: int
    wrong: int
    wrong_written: int
    script: str

    @property
    def name(self) -> str:
        """Return drill and strategy in one word."""
        return self.drill if self.strategy == WRITTEN else f"{self.drill}-{self.strategy}"

    @property
    def badness(self) -> tuple[float, ...]:
        """Return what is compared: the larger, the worse."""
        return (self.lost + self.wrong, math.inf if self.rto_ms is None else self.rto_ms, self.worst_ms)


@dataclass(frozen=True)
class _Point:
    """A script's moments: first strike, gaps to the next ones, how long each lasts (None: as it is); and its load."""

    first_ms: int
    gaps_ms: tuple[int, ...]
    lasts_ms: tuple[int | None, ...]
    load_seed: int


@dataclass(frozen=True)
class _Found:
    point: _Point
    measures: Measures

    @property
    def badness(self) -> tuple[float, ...]:
        told = self.measures
        return (told.lost + told.wrong + told.stale, told.unrestored, told.rto_ms, told.worst_ms)


Simulate = Callable[[Script, int], Observed]


def weakest(script: Script, strategy: str, simulate: Simulate, plays_max: int, seed: int = 0) -> WeakMoment:
    """Search the worst moments of a script under its settings; raises UsageError for settings that do not fit."""
    search = _Search(script, simulate, plays_max)
    written = search.look(_as_written(script))
    settings = pair_settings(script.settings)
    draw = random.Random(seed)  # noqa: S311 - which loads are tried
    loads = [script.load.seed, *(draw.randrange(10_000) for _ in range(_LOADS - 1))]
    worst = written
    for points in (_moments(written.point, settings, loads), _gaps(script, settings), _lasting(script, settings)):
        worst = search.sweep(points, worst)
    worst = search.refine(worst, first_step=settings.probe_every_ms // _GRID // 2)
    return _told(script, strategy, search, written, worst)


class _Search:
    """Plays points, each once, and so many at most; the worst is kept."""

    def __init__(self, script: Script, simulate: Simulate, plays_max: int) -> None:
        self._script = script
        self._simulate = simulate
        self._left = plays_max
        self._known: dict[_Point, _Found] = {}

    @property
    def plays(self) -> int:
        return len(self._known)

    def look(self, point: _Point) -> _Found:
        if point not in self._known:
            self._left -= 1
            script = at(self._script, point)
            self._known[point] = _Found(point, measure(script, self._simulate(script, _DICE)))
        return self._known[point]

    def sweep(self, points: Callable[[_Point], Iterator[_Point]], worst: _Found) -> _Found:
        """Return the worst of some points around one, that one included."""
        for point in list(points(worst.point)):
            if self._left <= 0:
                break
            worst = _worse(worst, self.look(point))
        return worst

    def refine(self, worst: _Found, first_step: int) -> _Found:
        """Walk to worse neighbours; steps are halved where there is none."""
        step = max(1, first_step)
        while step and self._left > 0:
            found = self.sweep(lambda point, step=step: _neighbours(point, step), worst)  # type: ignore[misc]
            step = step if found.badness > worst.badness else step // 2
            worst = found
        return worst


def _worse(one: _Found, other: _Found) -> _Found:
    """Return the worse; a play whose strikes could not be done shows nothing."""
    return other if not other.measures.undone and other.badness > one.badness else one


def at(script: Script, point: _Point) -> Script:
    """Return a script with its strikes moved; the load reaches beyond the last of them as far as it is needed."""
    moments = [point.first_ms]
    for gap_ms in point.gaps_ms:
        moments.append(moments[-1] + gap_ms)
    strikes = tuple(
        replace(strike, at_ms=at_ms, lasts_ms=lasts_ms)
        for strike, at_ms, lasts_ms in zip(script.strikes, moments, point.lasts_ms, strict=True)
    )
    ends_ms = max((one.at_ms + (one.lasts_ms or 0) for one in strikes), default=0)
    seconds = max(script.load.seconds, (ends_ms + _TAIL_MS) / 1000)
    load = replace(script.load, seed=point.load_seed, seconds=seconds)
    return replace(script, strikes=strikes, load=load, transcript="")


def _as_written(script: Script) -> _Point:
    moments = [one.at_ms for one in script.strikes]
    gaps = tuple(after - before for before, after in itertools.pairwise(moments))
    return _Point(moments[0] if moments else 0, gaps, tuple(one.lasts_ms for one in script.strikes), script.load.seed)


def _moments(written: _Point, settings: Settings, loads: Sequence[int]) -> Callable[[_Point], Iterator[_Point]]:
    """Return every phase of the probes, and of the scrubs where they come often, for every load."""
    periods = [settings.probe_every_ms, 1000 * settings.scrub_every_s]

    def points(_: _Point) -> Iterator[_Point]:
        for period_ms in (one for one in periods if one <= _PERIOD_MS_MAX):
            for phase in range(_GRID):
                first_ms = written.first_ms + phase * period_ms // _GRID
                yield from (replace(written, first_ms=first_ms, load_seed=load) for load in loads)

    return points


def _gaps(script: Script, settings: Settings) -> Callable[[_Point], Iterator[_Point]]:
    """Return every gap of a pair of strikes, around what a restart, a backoff and an eviction take."""
    gaps = sorted({*_GAPS_MS, settings.backoff_first_ms, settings.evict_after_ms, settings.hedge_max_ms})

    def points(point: _Point) -> Iterator[_Point]:
        for place in range(len(script.strikes) - 1):
            yield from (replace(point, gaps_ms=_set(point.gaps_ms, place, gap)) for gap in gaps)

    return points


def _lasting(script: Script, settings: Settings) -> Callable[[_Point], Iterator[_Point]]:
    """Return every duration just below and above the limits that a pair acts on."""
    limits = (settings.hedge_min_ms, settings.hedge_max_ms, settings.evict_after_ms, settings.probe_every_ms)
    lasting = sorted({max(1, limit + more) for limit in limits for more in (-2, 2, limit)})

    def points(point: _Point) -> Iterator[_Point]:
        for place, strike in enumerate(script.strikes):
            if strike.lasts_ms is not None:
                usable = [one for one in lasting if one <= strike.lasts_ms]  # a longer trouble is another drill
                yield from (replace(point, lasts_ms=_set(point.lasts_ms, place, one)) for one in usable)

    return points


def _neighbours(point: _Point, step: int) -> Iterator[_Point]:
    for sign in (step, -step):
        yield replace(point, first_ms=max(0, point.first_ms + sign))
        for place, gap in enumerate(point.gaps_ms):
            yield replace(point, gaps_ms=_set(point.gaps_ms, place, max(0, gap + sign)))


def _set(values: tuple[int, ...] | tuple[int | None, ...], place: int, to: int) -> tuple[int, ...]:
    return (*values[:place], to, *values[place + 1 :])  # type: ignore[arg-type]


def _told(script: Script, strategy: str, search: _Search, written: _Found, worst: _Found) -> WeakMoment:
    before, now = written.measures, worst.measures
    when = ", ".join(
        f"{one.fault} at {one.at_ms} ms{f' for {one.lasts_ms} ms' if one.lasts_ms else ''}"
        for one in at(script, worst.point).strikes
    )
    moment = at(script, worst.point)
    found, usual = (f"{_ms(_rto(one))}, worst answer {one.worst_ms:.0f} ms" for one in (now, before))
    comment = f"Found by search: restored after {found}; as written after {usual}."
    return WeakMoment(
        drill=script.name,
        strategy=strategy,
        when=when,
        plays=search.plays,
        rto_ms=_rto(now),
        rto_ms_written=_rto(before),
        worst_ms=round(now.worst_ms, 1),
        worst_ms_written=round(before.worst_ms, 1),
        lost=now.lost,
        lost_written=before.lost,
        wrong=now.wrong,
        wrong_written=before.wrong,
        script=format_script(replace(moment, comments=(*script.comments, comment))),
    )


def _rto(measures: Measures) -> float | None:
    return None if measures.unrestored else round(measures.rto_ms, 1)


def _ms(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} ms"
