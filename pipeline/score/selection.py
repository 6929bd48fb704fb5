"""Selection, pure: scorecards and a recipe in; a primary, a backup and a verdict with reasons for each out.

A candidate is eligible when it is within every budget of the recipe; the loss counts with the upper end of its
interval, so that luck on the validation rows buys nothing. The primary is the eligible candidate that its rule prefers
most and that leaves a backup; the best backup of all is kept for that role, and is primary only where no other can be.
The backup is the one its rule prefers most among those that differ from the primary as asked. ``accuracy`` prefers the
least upper end of the loss, not the best measured metric: of many candidates within chance of each other the best
measured one is merely the luckiest, and disappoints on the locked rows. The reference's loss is 0 by definition, so
another leads only if it is better beyond chance, or equal and smaller. Equal figures go to the smaller file, then to
the first name.

Where the backup must have another scheme, all files of a search count as one: ``mixed-1`` and ``mixed-2`` share most of
their number formats, and with them most faults. A mixed file differs from every uniform one, a format from the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pipeline.core.names import Role, is_mixed
from pipeline.core.recipe import Budgets, Diversity, Preference, Recipe
from pipeline.core.records import RefusedCandidate
from pipeline.core.schema import Rule
from pipeline.score.scorecard import Scorecard, TaskScore
from pipeline.score.task import units_needed

SELECTION_FILE = "selection.json"

# Against the float model, call by call, equal files differ by less than this from run to run.
_CLEARLY_SLOWER = 1.1


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate, and why, in words."""

    candidate: str
    eligible: Annotated[bool, Rule("Within every budget of the recipe.")]
    reasons: tuple[str, ...]
    ranks: Annotated[dict[Role, int], Rule("Place from 1 among the eligible, by each role's preference.")]
    role: Role | None = None


@dataclass(frozen=True)
class Selected:
    """The two chosen candidates (``selection.json``)."""

    model: str
    primary: str
    backup: str
    verdicts: tuple[Verdict, ...]
    locked_test: Annotated[dict[Role, TaskScore], Rule("The chosen two on rows opened after the decision.")]
    warnings: Annotated[tuple[str, ...], Rule("What speaks against it: locked rows, a larger or slower backup.")] = ()


@dataclass(frozen=True)
class Choice:
    """The decision: two candidates, and a verdict for each that was asked for."""

    primary: Scorecard
    backup: Scorecard
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class NoChoice:
    """The other decision: no pair meets the recipe; ``summary`` is a sentence, the verdicts hold every reason."""

    summary: str
    verdicts: tuple[Verdict, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return every reason, each with its candidate."""
        return tuple(f"{item.candidate}: {reason}" for item in self.verdicts for reason in item.reasons)


def select(cards: Sequence[Scorecard], refused: Sequence[RefusedCandidate], recipe: Recipe) -> Choice | NoChoice:
    """Pick the primary and the backup; the verdicts keep the order of ``cards``, then that of ``refused``."""
    eligible = [card for card in cards if not over_budget(card, recipe.budgets)]
    by_role = {role: ranked(eligible, prefer) for role, prefer in preferences(recipe).items()}
    pair = _best_pair(by_role, recipe.select.backup.diverse)
    verdicts = tuple(_verdict(card, by_role, pair, recipe) for card in cards)
    verdicts += tuple(Verdict(item.candidate, False, (item.reason,), {}) for item in refused)
    if pair is None:
        return NoChoice(_summary(recipe, len(eligible), len(verdicts)), verdicts)
    return Choice(*pair, verdicts)


def preferences(recipe: Recipe) -> dict[Role, Preference]:
    """Return what each role puts first."""
    return {Role.PRIMARY: recipe.select.primary.prefer, Role.BACKUP: recipe.select.backup.prefer}


def over_budget(card: Scorecard, budgets: Budgets) -> tuple[str, ...]:
    """Return, in words, every budget that the candidate exceeds."""
    checks = (
        (
            "loss up to {:.6g} exceeds the budget {:.6g}" + _settled(card.task, budgets),
            card.task.loss_high,
            budgets.loss_max_abs,
        ),
        ("{:,} bytes exceed the budget {:,}", card.size.bytes, budgets.bytes_max),
        ("latency p95 {:.6g} ms exceeds the budget {:.6g}", card.timings.latency_p95_ms, budgets.latency_p95_ms_max),
        ("{:.6g} MB of memory exceed the budget {:.6g}", card.timings.rss_mb, budgets.rss_mb_max),
    )
    return tuple(text.format(have, most) for text, have, most in checks if most is not None and have > most)


def _settled(task: TaskScore, budgets: Budgets) -> str:
    """Say what more rows could do about a loss whose interval straddles the budget."""
    if task.loss_low > budgets.loss_max_abs:
        return ""
    needed = units_needed(task, budgets.loss_max_abs)
    if needed is None:
        return f"; so does what was measured, {task.loss_abs:.6g}, though its interval reaches below"
    kind = "lists" if task.units else "rows"
    now = task.units or task.rows
    about = math.ceil(needed / 10 ** (len(str(needed)) - 2)) * 10 ** (len(str(needed)) - 2)
    return f"; what was measured, {task.loss_abs:.6g}, does not: about {about:,} {kind} would settle it ({now:,} now)"


def pair_warnings(choice: Choice) -> tuple[str, ...]:
    """Say in words where the backup is the larger or slower file of the two: allowed, but seldom what is wanted."""
    primary, backup = choice.primary, choice.backup
    names = f"The backup {backup.candidate} is {{}} than the primary {primary.candidate}: {{}} against {{}}."
    sizes = backup.size.bytes, primary.size.bytes
    ratios = backup.timings.latency_ratio_p50, primary.timings.latency_ratio_p50
    warnings = [names.format("larger", *(f"{size:,}" for size in sizes))] if sizes[0] > sizes[1] else []
    if ratios[0] > ratios[1] * _CLEARLY_SLOWER:
        warnings.append(names.format("slower", *(f"{ratio:.2f} × the float model's time" for ratio in ratios)))
    return tuple(warnings)


def ranked(cards: Sequence[Scorecard], prefer: Preference) -> list[Scorecard]:
    """Return the cards, most preferred first; equal figures go to the smaller file, then to the first name."""
    return sorted(cards, key=lambda card: (_cost(card, prefer), card.size.bytes, card.candidate))


def differs(primary: Scorecard, backup: Scorecard, diverse: Sequence[Diversity]) -> bool:
    """Tell whether the backup is another candidate and differs from the primary in everything that is asked."""
    return primary.candidate != backup.candidate and not _shared(primary, backup, diverse)


def _shared(primary: Scorecard, backup: Scorecard, diverse: Sequence[Diversity]) -> tuple[str, ...]:
    """Return, in words, what the two share and should not; the file format decides the engine."""
    pairs = {
        Diversity.SCHEME: (_family(primary) == _family(backup), f"same scheme {_family(backup)}"),
        Diversity.ENGINE: (primary.format == backup.format, f"same engine for {backup.format} files"),
    }
    return tuple(words for same, words in (pairs[item] for item in diverse) if same)


def _family(card: Scorecard) -> str:
    return "mixed" if is_mixed(card.scheme) else card.scheme


def _cost(card: Scorecard, prefer: Preference) -> float:
    if prefer is Preference.ACCURACY:
        return card.task.loss_high
    return {
        Preference.BYTES: card.size.bytes,
        Preference.BYTES_ZSTD: card.size.bytes_zstd,
        Preference.LATENCY: card.timings.latency_p50_ms,
        Preference.RSS: card.timings.rss_mb,
    }[prefer]


def _best_pair(
    by_role: dict[Role, list[Scorecard]], diverse: Sequence[Diversity]
) -> tuple[Scorecard, Scorecard] | None:
    for primary in _primaries(by_role):
        for backup in by_role[Role.BACKUP]:
            if differs(primary, backup, diverse):
                return primary, backup
    return None


def _primaries(by_role: dict[Role, list[Scorecard]]) -> list[Scorecard]:
    """Order who may be primary; the best backup of all comes last, else its own role would lose it."""
    backups = by_role[Role.BACKUP][:1] if by_role[Role.PRIMARY] != by_role[Role.BACKUP] else []
    return [card for card in by_role[Role.PRIMARY] if card not in backups] + backups


def _verdict(
    card: Scorecard, by_role: dict[Role, list[Scorecard]], pair: tuple[Scorecard, Scorecard] | None, recipe: Recipe
) -> Verdict:
    exceeded = over_budget(card, recipe.budgets)
    if exceeded:
        return Verdict(card.candidate, False, exceeded, {})
    ranks = {role: cards.index(card) + 1 for role, cards in by_role.items()}
    if pair is None:
        return Verdict(card.candidate, True, (_lonely(card, recipe),), ranks)
    role = {pair[0].candidate: Role.PRIMARY, pair[1].candidate: Role.BACKUP}.get(card.candidate)
    return Verdict(card.candidate, True, _explain(card, pair, by_role, recipe), ranks, role)


def _summary(recipe: Recipe, eligible: int, asked: int) -> str:
    within = f"{eligible} of {asked} candidates within the budgets"
    if eligible < 2:
        return f"No primary and backup for {recipe.model}: {within}, two are needed; loosen a budget or add candidates."
    wanted = " and ".join(recipe.select.backup.diverse)
    return f"No primary and backup for {recipe.model}: {within}, but no two differ in {wanted}; add other candidates."


def _lonely(card: Scorecard, recipe: Recipe) -> str:
    wanted = " and ".join(recipe.select.backup.diverse)
    tail = f" that differs from it in {wanted}" if wanted else ""
    return f"within the budgets, but {card.candidate} has no partner there{tail}"


def _explain(
    card: Scorecard, pair: tuple[Scorecard, Scorecard], by_role: dict[Role, list[Scorecard]], recipe: Recipe
) -> tuple[str, ...]:
    primary, backup = pair
    prefer = preferences(recipe)
    if card is primary:
        return (_won(card, Role.PRIMARY, prefer[Role.PRIMARY], by_role[Role.PRIMARY]),)
    lost = _not_primary(card, pair, by_role, prefer[Role.PRIMARY])
    if card is backup:
        return _won(card, Role.BACKUP, prefer[Role.BACKUP], by_role[Role.BACKUP]), f"not primary: {lost}"
    shared = _shared(primary, card, recipe.select.backup.diverse)
    why_not = f"{' and '.join(shared)} as the primary" if shared else _worse(card, backup, prefer[Role.BACKUP])
    return f"not primary: {lost}", f"not backup: {why_not}"


def _not_primary(
    card: Scorecard, pair: tuple[Scorecard, Scorecard], by_role: dict[Role, list[Scorecard]], prefer: Preference
) -> str:
    primary, backup = pair
    if by_role[Role.PRIMARY].index(card) > by_role[Role.PRIMARY].index(primary):
        return _worse(card, primary, prefer)
    return "it is the best backup of all" if card is backup else "no candidate within the budgets could be its backup"


def _won(card: Scorecard, role: Role, prefer: Preference, order: list[Scorecard]) -> str:
    place = order.index(card) + 1
    return f"{role}: {_figure(card, prefer)}, place {place} of {len(order)} within the budgets by {prefer}"


def _worse(card: Scorecard, winner: Scorecard, prefer: Preference) -> str:
    if _cost(card, prefer) == _cost(winner, prefer):
        rule = "the smaller file" if card.size.bytes != winner.size.bytes else "the first by name"
        return f"equal to {winner.candidate} at {_figure(card, prefer)}, which is {rule}"
    return f"{_WORSE[prefer]} {winner.candidate}: {_number(card, prefer)} against {_figure(winner, prefer)}"


def _number(card: Scorecard, prefer: Preference) -> str:
    return {
        Preference.ACCURACY: f"up to {_decimals(card.task.loss_high)}",
        Preference.BYTES: f"{card.size.bytes:,}",
        Preference.BYTES_ZSTD: f"{card.size.bytes_zstd:,}",
        Preference.LATENCY: f"{card.timings.latency_p50_ms:.6g}",
        Preference.RSS: f"{card.timings.rss_mb:.6g}",
    }[prefer]


def _decimals(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _figure(card: Scorecard, prefer: Preference) -> str:
    unit = f"{card.task.metric} lost" if prefer is Preference.ACCURACY else _UNITS[prefer]
    return f"{_number(card, prefer)} {unit}"


_UNITS = {
    Preference.BYTES: "bytes",
    Preference.BYTES_ZSTD: "bytes compressed",
    Preference.LATENCY: "ms",
    Preference.RSS: "MB",
}
_WORSE = {
    Preference.ACCURACY: "may lose more than",
    Preference.BYTES: "larger than",
    Preference.BYTES_ZSTD: "larger than",
    Preference.LATENCY: "slower than",
    Preference.RSS: "takes more memory than",
}
