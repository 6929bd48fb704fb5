"""The lines of a drill script that say what the pair is, how it is loaded and what is done to it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from pipeline.core.names import Role
from pipeline.drill import script_words as words_of
from pipeline.drill.fault_facts import FACTS
from pipeline.drill.nouns import Arrivals, FaultKind, Load, Strike
from pipeline.drill.script_words import Place

_SECONDS_MAX = 86_400.0
_DEADLINE_MS_MAX = 3_600_000.0  # a request that is never answered is waited for so long

# From least to most, of every figure that a fault takes: a script may come from a stranger, and a drill may run as
# root; and a strike of no process at all proves nothing.
AMOUNT_BOUNDS: Mapping[str, tuple[float, float]] = {
    "ms": (0.0, 1e11),  # three years
    "jitter_ms": (0.0, 1e9),
    "ramp_ms": (0.0, 1e9),
    "bias": (-1e15, 1e15),
    "spare_mb": (1, 1 << 20),
    "grow_mb": (1, 4096),  # at each request
    "processes": (1, 256),
    "connections": (1, 1 << 16),
    "poison_requests": (1, 1000),
    "every_ms": (0.0, 1e8),
    "times": (1, 1000),
}


def read_settings(place: Place, words: Sequence[str], before: Collection[str] = ()) -> dict[str, str]:
    """Read the words of a ``pair`` line; problems are told at ``place``, as with all readers here."""
    given = words_of.named(place, words, words_of.SETTINGS, "setting", before)
    for name, text in given.items():
        words_of.setting_value(place, name, text)
    return given


def read_load(place: Place, words: Sequence[str]) -> Load:
    """Read the words of a ``load`` line."""
    arrivals, rest = words[:1], list(words[1:])
    if not arrivals or arrivals[0] not in [*Arrivals]:
        place.says(f"a load is one of {', '.join(Arrivals)}, e.g. load poisson 100/s for 3s; found {' '.join(words)!r}")
        return Load()
    load = Load(Arrivals(arrivals[0]))
    if rest and "/" in rest[0]:
        rate = words_of.amount(place, "the rate", rest.pop(0), "/s")
        if rate == 0:
            place.says("a rate is more than 0/s")
        load = replace(load, rate_per_s=rate or load.rate_per_s)
    elif load.arrivals is not Arrivals.REPLAY:
        place.says("a load names its rate, e.g. 100/s")
    for name, text in words_of.couples(place, rest, ("for", "seed", "deadline", "log")).items():
        load = _LOAD_WORDS[name](place, load, text)
    if (load.arrivals is Arrivals.REPLAY) is not bool(load.log):
        place.says("a replay, and nothing else, names the file with its times: log FILE")
    return load


def _seconds(place: Place, load: Load, text: str) -> Load:
    seconds = words_of.amount(place, "the load's length", text, "s", maximum=_SECONDS_MAX)
    if seconds == 0:
        place.says("a load lasts longer than 0 s")
    return load if seconds is None else replace(load, seconds=seconds)


def _seed(place: Place, load: Load, text: str) -> Load:
    seed = words_of.whole(place, "the seed", text, "")
    return load if seed is None else replace(load, seed=seed)


def _deadline(place: Place, load: Load, text: str) -> Load:
    deadline = words_of.amount(place, "the deadline", text, "ms", maximum=_DEADLINE_MS_MAX)
    if deadline == 0:
        place.says("a deadline is longer than 0 ms")
    return load if deadline is None else replace(load, deadline_ms=deadline)


_LOAD_WORDS: Mapping[str, Callable[[Place, Load, str], Load]] = {
    "for": _seconds,
    "seed": _seed,
    "deadline": _deadline,
    "log": lambda _place, load, text: replace(load, log=text),
}


def read_strike(place: Place, words: Sequence[str]) -> Strike | None:
    """Read the words of an ``at`` line."""
    if len(words) < 2:
        place.says("a strike has a moment and a fault, e.g. at 500ms kill primary")
        return None
    at_ms = words_of.whole(place, "the moment", words[0], "ms")
    if words[1] not in [*FaultKind]:
        place.says(f"{words_of.show(words[1])} is no fault{words_of.nearest(words[1], FaultKind)}")
        return None
    fault, rest = FaultKind(words[1]), list(words[2:])
    target = Role(rest.pop(0)) if rest and rest[0] in [*Role] else None
    lasts_ms = _lasts(place, fault, rest)
    amounts = words_of.named(place, rest, FACTS[fault].amounts, f"figure of {fault}", set())
    figures = {name: words_of.amount(place, name, text, "", *AMOUNT_BOUNDS[name]) for name, text in amounts.items()}
    _check_aim(place, fault, target)
    kept = tuple((name, figure) for name, figure in figures.items() if figure is not None)
    return None if at_ms is None else Strike(at_ms, fault, target, lasts_ms, kept)


def _lasts(place: Place, fault: FaultKind, rest: list[str]) -> int | None:
    """Take ``for N ms`` off the end of a strike's words."""
    if "for" not in rest:
        return None
    start = rest.index("for")
    said = rest[start + 1 :]
    del rest[start:]
    if not FACTS[fault].can_end:
        place.says(f"{fault} cannot be taken back; leave `for` out")
        return None
    if len(said) != 1:
        place.says("how long a fault lasts is one word at the end of its line, e.g. for 400ms")
        return None
    lasts = words_of.whole(place, "how long it lasts", said[0], "ms")
    if lasts == 0:
        place.says("a fault lasts longer than 0 ms")
    return lasts


def _check_aim(place: Place, fault: FaultKind, target: Role | None) -> None:
    if FACTS[fault].is_aimed and target is None:
        place.says(f"{fault} is done to a role: {fault} primary, or {fault} backup")
    if not FACTS[fault].is_aimed and target is not None:
        place.says(f"{fault} is done to no role; leave {target} out")
