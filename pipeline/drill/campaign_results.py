"""What a campaign found, cell by cell, and what became worse since the last one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pipeline.core.canonical import readable_json, sha256_hex
from pipeline.core.names import Role
from pipeline.core.schema import Rule, plain
from pipeline.drill.campaign_recipe import Cell
from pipeline.drill.confidence import Repeats, Times, over_repeats
from pipeline.drill.results import Repeat
from pipeline.drill.script import format_script
from pipeline.drill.strategies import Strategy
from pipeline.drill.weakest import WeakMoment

RESULT_FILE = "campaign.json"
PREVIOUS_FILE = "previous.json"
WORSE_MS, WORSE_RATIO = 10.0, 0.1  # what nobody would notice is no regression
_SAME_MACHINE = ("processor", "processors", "memory")


@dataclass(frozen=True)
class CellResult:
    """All plays of one cell; ``script_sha256`` tells whether another campaign played the same."""

    name: str
    drill: str
    load: str
    strategy: str
    script_sha256: str
    is_judged: bool
    plays: int
    misses: tuple[str, ...]
    sent: int
    lost: int
    wrong: int
    left_out: str
    unrestored: int
    over_repeats: Repeats

    @property
    def passed(self) -> bool:
        """Tell whether every play met every objective."""
        return not self.misses


@dataclass(frozen=True)
class Change:
    """One figure of a cell that lies beyond its interval of the last campaign, in words."""

    cell: str
    what: str
    was: str
    now: str


@dataclass(frozen=True)
class Comparison:
    """This campaign against the last finished one; times are compared on a like machine alone."""

    last_ended_at: str
    is_like_machine: bool
    cells: int
    regressed: tuple[Change, ...]
    improved: tuple[Change, ...]
    left_aside: tuple[str, ...]  # cells that are new, gone, or of another script


@dataclass(frozen=True)
class CampaignResult:
    """One finished campaign of one model."""

    schema_version: Literal[1]
    campaign: str
    about: str
    model: str
    world: Literal["live", "simulated"]
    ended_at: str
    made_by: str
    bundles: dict[Role, str]
    runs_sha256: Annotated[str, Rule("Of the lines that it was made of.")]
    cells: Annotated[tuple[CellResult, ...], Rule(min_items=1)]
    strategies: dict[str, tuple[Strategy, ...]] = field(default_factory=dict)
    weakest: tuple[WeakMoment, ...] = ()
    comparison: Comparison | None = None
    machine: dict[str, str] = field(default_factory=dict)

    def against(self, comparison: Comparison) -> "CampaignResult":
        """Return the result with what became of it since the last one."""
        return replace(self, comparison=comparison)

    @property
    def plays(self) -> int:
        """Return how many plays were held."""
        return sum(cell.plays for cell in self.cells)

    @property
    def misses(self) -> tuple[str, ...]:
        """Return every missed objective, and everything that became worse, each with its cell."""
        missed = (f"{cell.name}: {miss}" for cell in self.cells for miss in cell.misses)
        changes = self.comparison.regressed if self.comparison is not None else ()
        worse = (f"{one.cell}: {one.what} was {one.was}, is {one.now}" for one in changes)
        return (*missed, *worse)

    @property
    def passed(self) -> bool:
        """Tell whether every objective was met and nothing became worse."""
        return not self.misses

    def to_bytes(self) -> bytes:
        """Return the bytes of ``campaign.json``."""
        return readable_json(plain(self))


def cell_result(cell: Cell, repeats: Sequence[Repeat]) -> CellResult:
    """Sum up the plays of a cell."""
    measures = [one.measures for one in repeats]
    several = len(repeats) > 1
    misses = tuple(
        f"{miss} (play {number})" if several else miss
        for number, one in enumerate(repeats, 1)
        for miss in one.verdict.misses
    )
    claims = over_repeats([(one.measures, one.verdict) for one in repeats])
    return CellResult(
        name=cell.name,
        drill=cell.drill,
        load=cell.load,
        strategy=cell.strategy,
        script_sha256=sha256_hex(format_script(cell.script).encode()),
        is_judged=cell.is_judged,
        plays=len(repeats),
        misses=misses,
        sent=sum(one.sent for one in measures),
        lost=sum(one.lost for one in measures),
        wrong=sum(one.wrong for one in measures),
        left_out=next((one.left_out for one in measures if one.left_out), ""),
        unrestored=sum(one.unrestored for one in measures),
        over_repeats=claims,
    )


def compare(last: CampaignResult, now: CampaignResult) -> Comparison:
    """Tell what lies beyond its interval of the last campaign, and which objectives held then and are missed now."""
    is_like = all(last.machine.get(name) == now.machine.get(name) for name in _SAME_MACHINE)
    before, after = ({cell.name: cell for cell in one.cells} for one in (last, now))
    same = [name for name in after if name in before and before[name].script_sha256 == after[name].script_sha256]
    aside = sorted((set(before) | set(after)) - set(same))
    worse = [one for name in same for one in _worse(before[name], after[name], is_like)]
    better = [one for name in same for one in _worse(after[name], before[name], is_like)]
    return Comparison(
        last_ended_at=last.ended_at,
        is_like_machine=is_like,
        cells=len(same),
        regressed=tuple(worse),
        improved=tuple(replace(one, was=one.now, now=one.was) for one in better),
        left_aside=tuple(aside),
    )


def _worse(one: CellResult, other: CellResult, with_times: bool) -> Iterator[Change]:
    """Yield in what ``other`` is worse than ``one``, beyond the intervals of both."""
    if one.passed and other.misses:
        yield Change(other.name, "objective", "met", other.misses[0])
    for name, share in other.over_repeats.events.items():
        before = one.over_repeats.events.get(name)
        if before is not None and before.of and share.low > before.high:
            yield Change(other.name, f"plays with {name}", before.in_words(), share.in_words())
    if with_times:
        yield from _slower(other.name, one.over_repeats.times, other.over_repeats.times)


def _slower(cell: str, before: Mapping[str, Times], after: Mapping[str, Times]) -> Iterator[Change]:
    for name, now in after.items():
        was = before.get(name)
        if was is None or was.high_ms is None or now.low_ms is None:
            continue  # too few plays for an interval: nothing is claimed
        noticeable_ms = max(WORSE_MS, WORSE_RATIO * was.median_ms)
        if now.low_ms > was.high_ms and now.median_ms - was.median_ms >= noticeable_ms:
            yield Change(cell, name, was.in_words(), now.in_words())
