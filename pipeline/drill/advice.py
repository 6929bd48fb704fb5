"""What to improve next, computed from where the time went: each advice names a setting and a figure, or what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.drill.fault_facts import FACTS
from pipeline.drill.measures import Measures, Span, StrikeMeasures
from pipeline.drill.nouns import FaultKind, Observed, Script
from pipeline.drill.pair_settings import pair_settings
from pipeline.drill.verdict import judge
from pipeline.runtime.members import Tier
from pipeline.runtime.settings import Settings, VerifyMode

NOTHING = "Nothing to improve: nothing was missed here that a setting would mend."
HEDGES_RATIO_MAX = 0.05  # a share of hedges that a calm pair keeps below
_MUCH_MS = 100.0  # less than this is not worth a setting
_FOUND_BY_CANARY = {
    FaultKind.STOP, FaultKind.ERRORS, FaultKind.MALFORMED, FaultKind.WRONG_DTYPE, FaultKind.NAN,
    FaultKind.WRONG_ANSWERS, FaultKind.CORRUPT_WEIGHTS,
}  # fmt: skip
_NETWORK = {FaultKind.DROPPED, FaultKind.DELAYED, FaultKind.RESET}
_FOUND_BY_AGE = {FaultKind.HANG, FaultKind.SLOW}


@dataclass(frozen=True)
class _Case:
    """All that advice is drawn from."""

    script: Script
    settings: Settings
    measures: Measures
    observed: Observed

    @property
    def before(self) -> Span | None:
        """Return the calm before the first strike."""
        return next((span for span in self.measures.spans if span.name == "before" and span.sent), None)

    @property
    def worst(self) -> StrikeMeasures | None:
        """Return the strike that was felt longest."""
        felt = [one for one in self.measures.strikes if one.rto_ms]
        return max(felt, key=lambda one: one.rto_ms or 0.0, default=None)


def advise(script: Script, measures: Measures, observed: Observed) -> tuple[str, ...]:
    """Return advice, the most urgent first; a sentence that there is none where nothing is to be gained."""
    if measures.left_out:
        return (f"Play it where it can be played: {measures.left_out}",)
    case = _Case(script, pair_settings(script.settings), measures, observed)
    found = tuple(dict.fromkeys(text for rule in _RULES for text in rule(case)))
    return found or (NOTHING,)


def _unserved(case: _Case) -> Iterator[str]:
    measures, settings = case.measures, case.settings
    if measures.unrestored:
        yield (
            f"{measures.unrestored} strikes were not over when the load ended: let it run longer "
            f"(now {case.script.load.seconds:g} s) to see whether service comes back at all."
        )
    if measures.outages and settings.standby is not Tier.HOT:
        yield (
            f"Nobody served while the standby was made ready ({settings.standby}): standby=hot has it ready before, "
            "for the memory of one loaded model."
        )
    elif measures.lost and measures.outages:
        yield (
            f"{measures.lost} requests were lost while nobody served: replicas={settings.replicas + 1} keeps one of a "
            "role when another dies; a second machine outlives this one."
        )
    elif measures.outages:
        yield (
            f"Nobody served for a while, and those who asked waited: replicas={settings.replicas + 1} would have gone "
            "on answering."
        )


def _detection(case: _Case) -> Iterator[str]:
    """Time that passed until the fault was noticed."""
    settings, before = case.settings, case.before
    for one in case.measures.strikes:
        mttd_ms = one.mttd_ms or 0.0
        title = FACTS[one.fault].title
        if mttd_ms < _MUCH_MS or FACTS[one.fault].is_latent:
            continue
        if one.fault in _FOUND_BY_AGE:
            # Four times what calm answers take at worst, so that load alone evicts nobody; and half at most at a time.
            calm_ms = before.worst_ms if before else float(settings.hedge_max_ms)
            least = max(settings.hedge_max_ms + 10, int(4 * calm_ms) // 10 * 10 + 10, settings.evict_after_ms // 2)
            if least < settings.evict_after_ms:
                saved = settings.evict_after_ms - least
                yield (
                    f"Noticing ({title}) took {mttd_ms:.0f} ms: evict_after_ms={least} instead of "
                    f"{settings.evict_after_ms} would save about {saved} ms; calm answers took {calm_ms:.0f} ms "
                    "at most."
                )
        elif one.fault in _FOUND_BY_CANARY and settings.probe_every_ms > 20:
            half = settings.probe_every_ms // 2
            yield (
                f"Noticing ({title}) took {mttd_ms:.0f} ms, and a canary comes every {settings.probe_every_ms} ms: "
                f"probe_every_ms={half} halves that wait for twice the canaries ({1000 / half:.0f}/s on each member)."
            )


def _switching(case: _Case) -> Iterator[str]:
    """Time between noticing and answering again: taking over, and loading what was not loaded."""
    one, settings = case.worst, case.settings
    if one is None or one.rto_ms is None or not FACTS[one.fault].components:
        return
    rest_ms = one.rto_ms - (one.mttd_ms or 0.0)
    if settings.standby is not Tier.HOT and rest_ms > _MUCH_MS:
        what = "loading the model" if settings.standby is Tier.WARM else "starting a process, verifying and loading"
        yield (
            f"Of {one.rto_ms:.0f} ms until answers were right again, {rest_ms:.0f} ms went into {what}: standby=hot "
            "takes them off, for the memory of one loaded model."
        )
    elif rest_ms > max(_MUCH_MS, one.mttd_ms or 0.0):
        yield (
            f"Of {one.rto_ms:.0f} ms until answers were right again, only {one.mttd_ms or 0.0:.0f} ms went into "
            "noticing: the rest is load that piled up. Look at the processors of this machine, or at queue_max "
            f"(now {settings.queue_max})."
        )


def _redundancy(case: _Case) -> Iterator[str]:
    measures, settings = case.measures, case.settings
    if measures.unredundant:
        causes = [one for one in measures.strikes if FACTS[one.fault].is_latent or not one.is_redundant_after]
        at_fault = ", ".join(dict.fromkeys(FACTS[one.fault].title for one in causes))
        yield (
            f"No standby came back ({at_fault}): the next fault is an outage. replicas={settings.replicas + 1} leaves "
            "another one; put the bundle right, then release the seat."
        )
    slow_ms = measures.redundancy_ms or 0.0
    if slow_ms > 10 * _MUCH_MS:
        yield (
            f"It took {slow_ms:.0f} ms until a standby was ready again, and a fault in that time is an outage: "
            f"backoff_first_ms={settings.backoff_first_ms // 2} (now {settings.backoff_first_ms}) starts it earlier, "
            f"replicas={settings.replicas + 1} needs no start."
        )


def _wrongs(case: _Case) -> Iterator[str]:
    measures, settings = case.measures, case.settings
    if measures.wrong and settings.verify is not VerifyMode.REPLICAS:
        yield (
            f"{measures.wrong} wrong answers were released before a canary found them: verify=replicas replicas=2 "
            "releases none, for twice the work on each request."
        )
    if measures.abstained:
        yield (
            f"{measures.abstained} answers were withheld because two did not agree "
            f"({measures.abstained_ratio:.1%}): a third replica (replicas=3) settles them."
        )


def _hedging(case: _Case) -> Iterator[str]:
    measures, settings, before = case.measures, case.settings, case.before
    if not measures.sent:
        return
    ratio = measures.hedged / measures.sent
    if ratio > HEDGES_RATIO_MAX and not measures.strikes and before is not None:
        longer = max(settings.hedge_max_ms, int(before.p99_ms) + 5)
        yield (
            f"{ratio:.1%} of requests were hedged on a healthy pair: hedge_max_ms={longer} (now "
            f"{settings.hedge_max_ms}), above the p99 of {before.p99_ms:.0f} ms, spares the standby."
        )
    could_help = all(FACTS[one.fault].components for one in measures.strikes) and not measures.outages
    if measures.late and could_help and ratio <= HEDGES_RATIO_MAX and settings.hedge_max_ms > settings.hedge_min_ms:
        shorter = (settings.hedge_min_ms + settings.hedge_max_ms) // 2
        yield (
            f"{measures.late} right answers came late though only {ratio:.1%} of requests were hedged: "
            f"hedge_max_ms={shorter} (now {settings.hedge_max_ms}) asks the other side earlier."
        )


def _surroundings(case: _Case) -> Iterator[str]:
    """Say what no setting of a pair can mend."""
    struck = {one.fault for one in case.measures.strikes}
    if case.measures.lost and struck & _NETWORK:
        yield (
            f"{case.measures.lost} requests were lost on the network: clients that ask again lose none, and may, since "
            "to infer twice does no harm."
        )
    if case.measures.lost and FaultKind.SERVER_DEATH in struck:
        yield (
            f"{case.measures.lost} requests were in the server's hands when it died: clients that ask again lose none, "
            "and may, since to infer twice does no harm."
        )
    if case.measures.late and FaultKind.CPU_STARVATION in struck:
        yield (
            f"{case.measures.late} right answers were late on starved processors: give the service a share of its own "
            "(CPUWeight= in its systemd unit), or another machine."
        )


def _naming(case: _Case) -> Iterator[str]:
    for one in case.measures.strikes:
        is_unread = FACTS[one.fault].is_latent and not one.named and not one.unexplained
        if not one.is_localised and not is_unread:
            said = ", ".join([*one.named, *one.unexplained]) or "nothing"
            true = " or ".join(sorted(FACTS[one.fault].components)) or "nothing"
            yield f"{FACTS[one.fault].title} was diagnosed as {said}, and is {true}: look at the evidence in the log."


def _saving(case: _Case) -> Iterator[str]:
    """Find what is spent beyond need: a hot standby where a warm one would still be in time."""
    measures, bound = case.measures, case.script.objectives.rto_ms_max
    may_save = case.settings.standby is Tier.HOT and case.settings.verify is not VerifyMode.PAIR
    if bound is None or not may_save or measures.redundancy_ms is None or not measures.failovers:
        return
    if not measures.memory_mb:
        return  # nothing to be saved where nothing is really loaded
    with_start_ms = measures.rto_ms + measures.redundancy_ms
    if judge(case.script.objectives, measures).passed and 2 * with_start_ms < bound:
        yield (
            f"Answers were right again after {measures.rto_ms:.0f} ms, {bound:g} ms are allowed, and a start takes "
            f"less than {measures.redundancy_ms:.0f} ms: standby=warm would pass too, without a second loaded "
            f"model (all processes: {measures.memory_mb:.0f} MB)."
        )


_RULES: tuple[Callable[[_Case], Iterator[str]], ...] = (
    _unserved, _redundancy, _wrongs, _detection, _switching, _hedging, _surroundings, _naming, _saving,
)  # fmt: skip
