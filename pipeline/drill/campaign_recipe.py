"""The recipe of a campaign: ``recipes/campaigns/<name>.yaml``, a matrix of drills, loads and strategies for models.

Read strictly, with every problem at once. A strategy is what a script's ``pair`` line holds; ``written`` is the name of
what a script itself says, of its load and of its pair.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pipeline.core.errors import RecipeError, UsageError
from pipeline.core.files import read_bytes
from pipeline.core.names import DRILL_NAME, MODEL_NAME
from pipeline.core.schema import Rule
from pipeline.core.strict_yaml import read_yaml
from pipeline.drill.nouns import Arrivals, Load, Objectives, Script
from pipeline.drill.pair_settings import pair_settings

CAMPAIGNS = Path("recipes/campaigns")
WRITTEN = "written"
ALL = "all"
_UNJUDGED = Objectives(lost_max=None, wrong_max=None, rpo_versions_max=None)


@dataclass(frozen=True)
class LoadChange:
    """What differs from a script's own load; what is left out stays."""

    arrivals: Annotated[Arrivals | None, Rule("constant or poisson.")] = None
    rate_per_s: Annotated[float | None, Rule("Requests a second.", minimum=0.1, maximum=100_000)] = None
    seconds: Annotated[float | None, Rule("How long, also after the strikes.", minimum=0.1, maximum=3600)] = None
    deadline_ms: Annotated[float | None, Rule("A request without an answer by then is lost.", minimum=1)] = None

    def of(self, load: Load) -> Load:
        """Return a script's load with the change."""
        names = ("arrivals", "rate_per_s", "seconds", "deadline_ms")
        return replace(load, **{name: to for name in names if (to := getattr(self, name)) is not None})

    def problems(self) -> Iterator[str]:
        """Yield what a campaign cannot play."""
        if self.arrivals is Arrivals.REPLAY:
            yield "arrivals: a log is replayed by a script of its own; give constant or poisson"


@dataclass(frozen=True)
class Matrix:
    """Every drill under every load with every strategy, each so many times."""

    drills: Annotated[
        tuple[Annotated[str, Rule(pattern=DRILL_NAME)], ...], Rule("Scripts of recipes/drills; all: each.", min_items=1)
    ]
    loads: Annotated[tuple[str, ...], Rule("Names of `loads`; written: the script's own.", min_items=1)] = (WRITTEN,)
    strategies: Annotated[tuple[str, ...], Rule("Names of `strategies`; written: the script's own.", min_items=1)] = (
        WRITTEN,
    )
    repeats: Annotated[
        int, Rule("Plays of each; a median has an interval at 95 % from 6 on.", minimum=1, maximum=1000)
    ] = 1
    is_judged: Annotated[
        bool, Rule("false: figures are compared, and no objective binds (for strategies that cannot meet a script's).")
    ] = True


@dataclass(frozen=True)
class WeakestSearch:
    """Look for the worst moment to strike, in the simulated world."""

    drills: Annotated[tuple[Annotated[str, Rule(pattern=DRILL_NAME)], ...], Rule("Scripts to vary.", min_items=1)]
    strategies: Annotated[tuple[str, ...], Rule("Pair settings to vary them under.", min_items=1)] = (WRITTEN,)
    plays_max: Annotated[int, Rule("Simulated plays for one drill and strategy.", minimum=10, maximum=100_000)] = 120
    seed: Annotated[int, Rule("Of the loads that are tried.", minimum=0)] = 0


@dataclass(frozen=True)
class Campaign:
    """A whole campaign."""

    about: str
    models: Annotated[tuple[Annotated[str, Rule(pattern=MODEL_NAME)], ...], Rule("Whose pairs.", min_items=1)]
    matrices: Annotated[dict[Annotated[str, Rule(pattern=DRILL_NAME)], Matrix], Rule("What is played, by name.")]
    loads: Annotated[dict[Annotated[str, Rule(pattern=DRILL_NAME)], LoadChange], Rule("Other loads.")] = field(
        default_factory=dict
    )
    strategies: Annotated[
        dict[Annotated[str, Rule(pattern=DRILL_NAME)], str], Rule("Pair settings, as in a script: standby=warm …")
    ] = field(default_factory=dict)
    weakest: WeakestSearch | None = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if not self.matrices:
            yield "matrices: a campaign plays at least one"
        for name, matrix in self.matrices.items():
            yield from _unknown(f"matrices.{name}.loads", matrix.loads, self.loads)
            yield from _unknown(f"matrices.{name}.strategies", matrix.strategies, self.strategies)
        if self.weakest is not None:
            yield from _unknown("weakest.strategies", self.weakest.strategies, self.strategies)
        for kind, known in (("loads", self.loads), ("strategies", self.strategies)):
            if WRITTEN in known:
                yield f"{kind}.{WRITTEN}: this name stands for what a script says; choose another"
        for name, text in self.strategies.items():
            try:
                pair_settings(settings_of(text))
            except UsageError as error:
                yield from (f"strategies.{name}: {line.rstrip('.')}" for line in str(error).splitlines())

    def overrides(self, strategy: str) -> tuple[tuple[str, str], ...]:
        """Return the pair settings of a strategy; none for what is written."""
        return () if strategy == WRITTEN else settings_of(self.strategies[strategy])


@dataclass(frozen=True)
class Cell:
    """One place of the matrix: the script as it is played, how often, and the names that lead to it."""

    drill: str
    load: str
    strategy: str
    matrices: tuple[str, ...]
    repeats: int
    is_judged: bool
    script: Script

    @property
    def name(self) -> str:
        """Return drill, load and strategy in a word each; what is as written is not said."""
        return cell_name(self.drill, self.load, self.strategy)

    @property
    def is_as_written(self) -> bool:
        """Tell whether this is the very script of the file."""
        return self.load == self.strategy == WRITTEN


def cell_name(drill: str, load: str, strategy: str) -> str:
    """Return what a cell is called."""
    return "/".join([drill, *(name for name in (load, strategy) if name != WRITTEN)])


def settings_of(text: str) -> tuple[tuple[str, str], ...]:
    """Return ``name=value`` words as overrides."""
    return tuple((name, value) for name, _, value in (word.partition("=") for word in text.split()))


def parse_campaign(text: str | bytes, place: str) -> Campaign:
    """Read a campaign; raises RecipeError with every problem, each with its path in the file."""
    return read_yaml(Campaign, text, place, RecipeError)


def load_campaign(name: str, scripts: Sequence[Script], root: Path = CAMPAIGNS) -> Campaign:
    """Load ``<root>/<name>.yaml``; raises RecipeError when it is missing, malformed, or cannot be played."""
    if not re.fullmatch(DRILL_NAME, name):  # its name is a folder's, too
        raise RecipeError(f"{name!r} is no name of a campaign; name its file in small letters, digits and -.")
    path = root / f"{name}.yaml"
    known = ", ".join(sorted(item.stem for item in root.glob("*.yaml"))) or "none"
    campaign = parse_campaign(read_bytes(path, RecipeError, f"campaigns here: {known}"), str(path))
    if problems := list(_unplayable(campaign, {one.name: one for one in scripts})):
        listing = "\n  - ".join(problems)
        raise RecipeError(f"{path}: {len(problems)} problem(s):\n  - {listing}")
    return campaign


def cells(campaign: Campaign, scripts: Sequence[Script]) -> tuple[Cell, ...]:
    """Return every cell once, in the order of the recipe; what several matrices hold is played as often as one asks."""
    by_name = {one.name: one for one in scripts}
    found: dict[str, Cell] = {}
    for matrix_name, matrix in campaign.matrices.items():
        for drill, load, strategy in _places(matrix, by_name):
            cell = _cell(campaign, matrix_name, matrix, by_name[drill], load, strategy)
            found[cell.name] = _merged(found.get(cell.name), cell)
    return tuple(found.values())


def varied(script: Script, overrides: Sequence[tuple[str, str]]) -> Script:
    """Return a script with other pair settings; its transcript holds for its own alone."""
    if not overrides:
        return script
    return replace(script, settings=tuple({**dict(script.settings), **dict(overrides)}.items()), transcript="")


def _cell(campaign: Campaign, matrix_name: str, matrix: Matrix, script: Script, load: str, strategy: str) -> Cell:
    drill = script.name
    script = varied(script, campaign.overrides(strategy))
    if load != WRITTEN:
        script = replace(script, load=campaign.loads[load].of(script.load), transcript="")
    if not matrix.is_judged:
        script = replace(script, objectives=_UNJUDGED, transcript="")
    return Cell(drill, load, strategy, (matrix_name,), matrix.repeats, matrix.is_judged, script)


def _merged(one: Cell | None, other: Cell) -> Cell:
    """Return what two matrices ask of one cell: as many plays as either, judged where one of them judges."""
    if one is None:
        return other
    base = one if one.is_judged else other
    return replace(base, matrices=one.matrices + other.matrices, repeats=max(one.repeats, other.repeats))


def _places(matrix: Matrix, scripts: Mapping[str, Script]) -> Iterator[tuple[str, str, str]]:
    for drill in _drills(matrix.drills, scripts):
        for load in matrix.loads:
            for strategy in matrix.strategies:
                yield drill, load, strategy


def _drills(names: Sequence[str], scripts: Mapping[str, Script]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(drill for name in names for drill in (scripts if name == ALL else (name,))))


def _unknown(place: str, names: Sequence[str], known: Mapping[str, object]) -> Iterator[str]:
    for name in names:
        if name != WRITTEN and name not in known:
            yield f"{place}: {name!r} is not defined; there are {', '.join([WRITTEN, *known])}"


def _unplayable(campaign: Campaign, scripts: Mapping[str, Script]) -> Iterator[str]:
    for name, matrix in campaign.matrices.items():
        yield from _missing(f"matrices.{name}.drills", matrix.drills, scripts)
        for drill, load, strategy in _places(matrix, scripts):
            if drill in scripts:
                cell = _cell(campaign, name, matrix, scripts[drill], load, strategy)
                yield from (f"matrices.{name}: {cell.name}: {problem}" for problem in _misfits(cell.script))
    if campaign.weakest is not None:
        yield from _missing("weakest.drills", campaign.weakest.drills, scripts)


def _missing(place: str, names: Sequence[str], scripts: Mapping[str, Script]) -> Iterator[str]:
    for name in names:
        if name != ALL and name not in scripts:
            yield f"{place}: there is no drill {name!r} in recipes/drills"


def _misfits(script: Script) -> Iterator[str]:
    """Yield why a script does not go with the load or the settings that it was given."""
    late = [one.at_ms for one in script.strikes if one.at_ms >= 1000 * script.load.seconds]
    if late:
        yield f"it strikes at {late[0]} ms, and the load ends at {1000 * script.load.seconds:g} ms"
    try:
        pair_settings(script.settings)
    except UsageError as error:
        yield str(error).replace("\n", " ").rstrip(".")
