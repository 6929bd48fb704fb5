"""From a drill that fails to the smallest one that still does (delta debugging of strikes, load, amounts, settings)."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from pipeline.core.errors import UsageError
from pipeline.drill.nouns import Load, Script, Strike
from pipeline.drill.pair_settings import pair_settings

_PLAYS_MAX = 400
_ROUND_MS = (100, 10)

Fails = Callable[[Script], bool]


def shrunk(script: Script, seed: int, fails: Fails) -> Script:  # noqa: ARG001 - part of the contract: fails() plays it
    """Return the smallest script found that still fails; ``fails`` plays it with the seed it is about."""
    budget = _Budget(fails)
    while True:
        smaller = next((one for one in _smaller(script) if budget.allows(one)), None)
        if smaller is None:
            return script
        script = smaller


class _Budget:
    """So many plays, and not more; what was played before is not played again."""

    def __init__(self, fails: Fails) -> None:
        self._fails = fails
        self._played: set[Script] = set()

    def allows(self, script: Script) -> bool:
        """Tell whether a script still fails."""
        if script in self._played or len(self._played) >= _PLAYS_MAX or not _is_valid(script):
            return False
        self._played.add(script)
        return self._fails(script)


def _is_valid(script: Script) -> bool:
    try:
        pair_settings(script.settings)
    except UsageError:  # what is left of its settings does not fit together
        return False
    return True


def _smaller(script: Script) -> Iterator[Script]:
    """Yield scripts that are a step smaller, the largest steps first."""
    strikes = script.strikes
    half = len(strikes) // 2
    if half > 1:
        yield replace(script, strikes=strikes[:half])
        yield replace(script, strikes=strikes[half:])
    for place in range(len(strikes)):
        yield replace(script, strikes=(*strikes[:place], *strikes[place + 1 :]))
    for place in range(len(script.settings)):
        yield replace(script, settings=(*script.settings[:place], *script.settings[place + 1 :]))
    yield from (replace(script, load=load) for load in _smaller_loads(script))
    for place, strike in enumerate(strikes):
        for simpler in _simpler(strike):
            yield replace(script, strikes=(*strikes[:place], simpler, *strikes[place + 1 :]))


def _smaller_loads(script: Script) -> Iterator[Load]:
    load = script.load
    last_s = max((one.at_ms + (one.lasts_ms or 0) for one in script.strikes), default=0) / 1000
    if load.seconds > 0.2 and load.seconds / 2 > last_s:
        yield replace(load, seconds=round(load.seconds / 2, 3))
    if load.rate_per_s > 5:
        yield replace(load, rate_per_s=float(round(load.rate_per_s / 2)))
    if load.deadline_ms != Load.deadline_ms:
        yield replace(load, deadline_ms=Load.deadline_ms)
    if load.seed:
        yield replace(load, seed=0)


def _simpler(strike: Strike) -> Iterator[Strike]:
    for place in range(len(strike.amounts)):
        yield replace(strike, amounts=(*strike.amounts[:place], *strike.amounts[place + 1 :]))
    for step in _ROUND_MS:
        if strike.at_ms % step:
            yield replace(strike, at_ms=strike.at_ms // step * step)
    if strike.lasts_ms is not None and strike.lasts_ms > 20:
        yield replace(strike, lasts_ms=strike.lasts_ms // 2)
