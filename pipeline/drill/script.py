"""Drill scripts as text: read with every problem at once, and written back the same."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from pipeline.core.errors import RecipeError, UsageError
from pipeline.core.files import read_bytes
from pipeline.core.printable import printable
from pipeline.drill import script_words as words_of
from pipeline.drill.nouns import Load, Objectives, Script, Strike
from pipeline.drill.pair_settings import pair_settings
from pipeline.drill.script_lines import read_load, read_settings, read_strike
from pipeline.drill.script_words import Place

SCRIPTS = Path("recipes/drills")
RULER = "----"
SHOWABLE = ("serving", "diagnosed", "redundancy", "lost", "verdict")
NEEDS = ("root",)

_REQUESTS_MAX = 1_000_000
_STRIKES_MAX = 1000
_REPLICAS_MAX = 16  # of each role, each a process with a model of its own


@dataclass
class _Draft:
    """A script while its lines are read."""

    problems: list[str] = field(default_factory=list)
    script: Script = field(default_factory=lambda: Script("", ""))
    strikes: list[tuple[int, Strike]] = field(default_factory=list)
    has_load: bool = False
    objectives: dict[str, float | int | None] = field(default_factory=dict)
    settings_line: int = 0

    def place(self, number: int) -> Place:
        """Return where a line's problems go."""
        return Place(f"line {number}", self.problems)


def parse_script(text: str, name: str) -> Script:
    """Read a script; ``name`` is the script's own, and stands before every problem.

    Raises RecipeError with every problem, each with the number of its line.
    """
    lines = text.removeprefix("\ufeff").split("\n")
    ruler = next((number for number, line in enumerate(lines) if line.strip() == RULER), len(lines))
    draft = _Draft()
    _check_characters(draft, lines)
    _read_rule(draft, lines[0])
    for number, line in enumerate(lines[1:ruler], 2):
        _read_line(draft, number, line.strip())
    _check_whole(draft)
    if draft.problems:
        listing = "\n  - ".join(sorted(draft.problems, key=_line_number))
        raise RecipeError(f"{printable(name)}: {len(draft.problems)} problem(s) in this drill script:\n  - {listing}")
    return replace(
        draft.script,
        name=name,
        strikes=tuple(strike for _, strike in draft.strikes),
        objectives=Objectives(**draft.objectives),  # type: ignore[arg-type]  # read by the types of its fields
        transcript=_trimmed(lines[ruler + 1 :]),
    )


def _line_number(problem: str) -> int:
    return int(problem.removeprefix("line ").partition(":")[0])


def _check_characters(draft: _Draft, lines: Sequence[str]) -> None:
    """Say where characters stand that nobody sees, and that could steer a terminal or turn a sentence round."""
    for number, line in enumerate(lines, 1):
        shown = line.strip().replace("\t", " ")
        if printable(shown) != shown:
            draft.place(number).says(f"it holds characters that cannot be shown: {words_of.show(shown)}")


def _trimmed(lines: Sequence[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _read_rule(draft: _Draft, line: str) -> None:
    rule = " ".join(line.strip().removeprefix("#").split())
    if not line.strip().startswith("#") or not rule:
        draft.place(1).says("the first line is the rule that the drill guards: # A killed primary costs no answer.")
    draft.script = replace(draft.script, rule=rule)


def _read_line(draft: _Draft, number: int, line: str) -> None:
    if line.startswith("#"):
        draft.script = replace(draft.script, comments=(*draft.script.comments, line[1:].strip()))
    elif line:
        first, *rest = line.split()
        if first in _READERS:
            _READERS[first](draft, number, rest)
        else:
            known = words_of.nearest(first, _READERS)
            draft.place(number).says(f"{first!r} begins no line of a script{known}; lines begin with {_LISTED}")


def _read_pair(draft: _Draft, number: int, words: Sequence[str]) -> None:
    given = read_settings(draft.place(number), words, set(dict(draft.script.settings)))
    draft.settings_line = number
    draft.script = replace(draft.script, settings=(*draft.script.settings, *given.items()))


def _read_load(draft: _Draft, number: int, words: Sequence[str]) -> None:
    if draft.has_load:
        draft.place(number).says("a script has one load")
        return
    draft.has_load = True
    draft.script = replace(draft.script, load=read_load(draft.place(number), words))


def _read_at(draft: _Draft, number: int, words: Sequence[str]) -> None:
    if (strike := read_strike(draft.place(number), words)) is not None:
        draft.strikes.append((number, strike))


def _read_expect(draft: _Draft, number: int, words: Sequence[str]) -> None:
    place = draft.place(number)
    given = words_of.named(place, words, words_of.OBJECTIVES, "objective", set(draft.objectives))
    for name, text in given.items():
        draft.objectives[name] = words_of.objective_value(place, name, text)
    if not words:
        place.says("expect names objectives, e.g. expect lost_max=0 rto_ms_max=100")


def _read_needs(draft: _Draft, number: int, words: Sequence[str]) -> None:
    place = draft.place(number)
    needs = words_of.listed(place, words, NEEDS, "need", draft.script.needs)
    draft.script = replace(draft.script, needs=(*draft.script.needs, *needs))


def _read_shows(draft: _Draft, number: int, words: Sequence[str]) -> None:
    place = draft.place(number)
    shows = words_of.listed(place, words, SHOWABLE, "line of the transcript", draft.script.shows)
    draft.script = replace(draft.script, shows=(*draft.script.shows, *shows))


_READERS: Mapping[str, Callable[[_Draft, int, Sequence[str]], None]] = {
    "pair": _read_pair, "load": _read_load, "at": _read_at, "expect": _read_expect, "needs": _read_needs,
    "shows": _read_shows,
}  # fmt: skip
_LISTED = ", ".join(_READERS)


def _check_whole(draft: _Draft) -> None:
    """Say what no single line shows."""
    load = draft.script.load
    if load.rate_per_s * load.seconds > _REQUESTS_MAX:
        draft.place(1).says(f"the load has more than {_REQUESTS_MAX} requests")
    _check_strikes(draft, 1000 * load.seconds)
    if not any(problem.startswith(f"line {draft.settings_line}:") for problem in draft.problems):
        _check_settings(draft)


def _check_strikes(draft: _Draft, end_ms: float) -> None:
    if len(draft.strikes) > _STRIKES_MAX:
        draft.place(draft.strikes[_STRIKES_MAX][0]).says(f"a script has at most {_STRIKES_MAX} strikes")
    before = 0
    for number, strike in draft.strikes:
        if strike.at_ms >= end_ms:
            draft.place(number).says(f"it strikes at {strike.at_ms} ms, and the load ends at {end_ms:g} ms")
        if strike.at_ms < before:
            draft.place(number).says("strikes stand in the order of time")
        before = max(before, strike.at_ms)


def _check_settings(draft: _Draft) -> None:
    place = draft.place(draft.settings_line)
    try:
        if pair_settings(draft.script.settings).replicas > _REPLICAS_MAX:
            place.says(f"a drill has at most {_REPLICAS_MAX} replicas")
    except UsageError as error:
        place.says(str(error).rstrip("."))


def format_script(script: Script) -> str:
    """Return the text of a script; :func:`parse_script` reads the same from it."""
    lines = [f"# {script.rule}", *(f"# {comment}".rstrip() for comment in script.comments)]
    lines += _line("pair", [f"{name}={text}" for name, text in script.settings])
    lines += [_load_line(script.load), *map(_strike_line, script.strikes)]
    lines += _line("expect", _expected(script.objectives))
    lines += [*_line("needs", script.needs), *_line("shows", script.shows), RULER]
    return "\n".join([*lines, *([script.transcript] if script.transcript else [])]) + "\n"


def _line(first: str, words: Sequence[str]) -> list[str]:
    return [" ".join([first, *words])] if words else []


def _load_line(load: Load) -> str:
    rate = f"{words_of.figure(load.rate_per_s)}/s"
    words = ["load", load.arrivals.value, rate, "for", f"{words_of.figure(load.seconds)}s", "seed", str(load.seed)]
    words += ["deadline", f"{words_of.figure(load.deadline_ms)}ms", *(["log", load.log] if load.log else [])]
    return " ".join(words)


def _strike_line(strike: Strike) -> str:
    words = ["at", f"{strike.at_ms}ms", strike.fault.value, *([strike.target.value] if strike.target else [])]
    words += [f"{name}={words_of.figure(amount)}" for name, amount in strike.amounts]
    return " ".join(words + ([f"for {strike.lasts_ms}ms"] if strike.lasts_ms else []))


def _expected(objectives: Objectives) -> list[str]:
    """Return what is asked beyond, or against, what is asked of every drill; lost and wrong always stand there."""
    usual = Objectives()
    asked = ((one.name, getattr(objectives, one.name)) for one in fields(Objectives))
    said = [(name, to) for name, to in asked if to != getattr(usual, name) or name in ("lost_max", "wrong_max")]
    return [f"{name}={words_of.ANY if to is None else words_of.figure(to)}" for name, to in said]


def load_script(path: Path) -> Script:
    """Read one script file, named as its file; raises RecipeError for a missing, foreign or malformed one."""
    content = read_bytes(path, RecipeError, "see `ls recipes/drills`")
    try:
        return parse_script(content.decode(), path.stem)
    except UnicodeDecodeError as error:
        raise RecipeError(f"{printable(str(path))} is not UTF-8 text; save it as such.") from error


def load_scripts(folder: Path) -> list[Script]:
    """Read every ``*.drill`` file of a folder, by name; raises RecipeError with the problems of all of them."""
    found, problems = [], []
    for path in sorted(folder.glob("*.drill")):
        try:
            found.append(load_script(path))
        except RecipeError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    if not found:
        raise RecipeError(
            f"There is no drill script (*.drill) in {folder}; change into a project's folder, or write one there."
        )
    return found
