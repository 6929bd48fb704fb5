"""What a strategy costs and what it buys: time to restore against memory and processor time."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pipeline.drill.measures import Measures
from pipeline.runtime.journal import quantile

HEADERS = (
    "strategy", "settings", "plays", "RTO median", "RTO p95", "redundant p95", "worst answer", "lost", "wrong",
    "memory at rest", "at most", "CPU",
)  # fmt: skip


_ALIKE_RATIO = 0.1
_MEASURED = ("memory_rest_mb", "cpu_ratio")


@dataclass(frozen=True)
class Strategy:
    """All plays of one strategy; times are of strikes, over drills and loads.

    ``memory_rest_mb`` is the median before the load, ``memory_mb`` the median of the plays' peaks (a cold standby is
    loaded by then), ``cpu_ratio`` the median share of one processor; None where no play measured it (the simulated
    world has none). ``is_beaten``: another strategy is at least as good in RTO, lost, wrong, memory at rest and
    processor, and better in one of them; a difference of less than a tenth counts as none.
    """

    name: str
    settings: str
    plays: int
    strikes: int
    unrestored: int
    rto_ms_median: float | None
    rto_ms_p95: float | None
    redundancy_ms_p95: float | None
    worst_ms: float
    sent: int
    lost: int
    wrong: int
    abstained: int
    memory_rest_mb: float | None
    memory_mb: float | None
    cpu_ratio: float | None
    left_out: int = 0
    is_beaten: bool = False


def compared(plays: Mapping[str, Sequence[Measures]], settings: Mapping[str, str]) -> tuple[Strategy, ...]:
    """Return each strategy's figures, in the order given."""
    rows = [_summed_up(name, settings.get(name, ""), measures) for name, measures in plays.items()]
    return tuple(_marked(row, rows) for row in rows)


def markdown(rows: Sequence[Strategy]) -> str:
    """Return the table as Markdown; ▸ marks what no other strategy beats in everything at once."""
    ruler = ["---", "---", *("--:" for _ in HEADERS[2:])]
    return "".join(f"| {' | '.join(line)} |\n" for line in (HEADERS, ruler, *map(cells_of, rows)))


def cells_of(row: Strategy) -> tuple[str, ...]:
    """Return one row in words."""
    return (
        f"{'' if row.is_beaten else '▸ '}{row.name}",
        row.settings or "as written",
        str(row.plays),
        *(_ms(None if row.unrestored else value) for value in (row.rto_ms_median, row.rto_ms_p95)),
        _ms(row.redundancy_ms_p95),
        _ms(row.worst_ms),
        f"{row.lost} of {row.sent}",
        str(row.wrong),
        _mb(row.memory_rest_mb),
        _mb(row.memory_mb),
        "–" if row.cpu_ratio is None else f"{row.cpu_ratio:.0%}",
    )


def _mb(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} MB"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _summed_up(name: str, settings: str, plays: Sequence[Measures]) -> Strategy:
    played = [one for one in plays if not one.left_out]
    strikes = [strike for one in played for strike in one.strikes]
    rto_ms = sorted(one.rto_ms for one in strikes if one.rto_ms is not None)
    redundancy_ms = sorted(one.redundancy_ms for one in played if one.redundancy_ms is not None)
    return Strategy(
        name=name,
        settings=settings,
        plays=len(played),
        strikes=len(strikes),
        unrestored=len(strikes) - len(rto_ms),
        rto_ms_median=round(median(rto_ms), 1) if rto_ms else None,
        rto_ms_p95=round(quantile(rto_ms, 0.95), 1) if rto_ms else None,
        redundancy_ms_p95=round(quantile(redundancy_ms, 0.95), 1) if redundancy_ms else None,
        worst_ms=round(max((one.worst_ms for one in played), default=0.0), 1),
        sent=sum(one.sent for one in played),
        lost=sum(one.lost for one in played),
        wrong=sum(one.wrong for one in played),
        abstained=sum(one.abstained for one in played),
        memory_rest_mb=_median(one.memory_rest_mb for one in played),
        memory_mb=_median(one.memory_mb for one in played),
        cpu_ratio=_median(one.cpu_ratio for one in played),
        left_out=len(plays) - len(played),
    )


def _median(values: Iterable[float]) -> float | None:
    known = [one for one in values if one > 0]
    return round(median(known), 4) if known else None


def _marked(row: Strategy, rows: Sequence[Strategy]) -> Strategy:
    return replace(row, is_beaten=any(_beats(other, row) for other in rows))


def _beats(one: Strategy, other: Strategy) -> bool:
    """Tell whether one is as good in everything and better in something; what was not measured is not compared."""
    if any((getattr(one, name) is None) != (getattr(other, name) is None) for name in _MEASURED):
        return False
    pairs = list(zip(_costs(one), _costs(other), strict=True))
    return not any(_is_less(b, a) for a, b in pairs) and any(_is_less(a, b) for a, b in pairs)


def _is_less(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Tell whether a cost is smaller by more than a few plays leave to chance: a tenth, and the least that counts."""
    (value, least), (more, _) = one, other
    return more - value > max(least, _ALIKE_RATIO * value)


def _costs(row: Strategy) -> tuple[tuple[float, float], ...]:
    """Return what should be small, each with the least difference that counts; not restored counts as never."""
    rto_ms = float("inf") if row.unrestored or row.rto_ms_p95 is None else row.rto_ms_p95
    sent = max(row.sent, 1)
    shares = ((row.lost / sent, 0.0), (row.wrong / sent, 0.0))
    return ((rto_ms, 10.0), *shares, (row.memory_rest_mb or 0.0, 1.0), (row.cpu_ratio or 0.0, 0.01))
