"""The gates of promotion, pure: a policy and measured facts in; promote, or refuse with every reason, out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pipeline.core.clock import to_text
from pipeline.core.names import Format, Role
from pipeline.core.recipe import Diversity
from pipeline.registry.freezing import Freeze
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import Gates, Origin, PromotionPolicy

_DAY_SECONDS = 86_400
_CLOCKS_APART_DAYS = 300 / _DAY_SECONDS  # two machines' clocks may differ by so much


@dataclass(frozen=True)
class Standing:
    """The facts of one bundle that stands for a role; it was verified before these were read."""

    role: Role
    bundle_id: str
    candidate: str
    scheme: str
    format: Format
    io_contract_sha256: str
    loss_high: float
    latency_ratio_p50: float
    key_hint: str
    """Of the key that signed it."""


@dataclass(frozen=True)
class Rehearsal:
    """What a drill attestation says; it was verified before this was read."""

    pair: Pair
    is_live: bool
    passed: bool
    ended_at: datetime
    rto_ms_p95: float | None
    scripts: Mapping[str, str] = field(default_factory=dict)
    """What was played: the sha256 of every script, by name."""


@dataclass(frozen=True)
class Provenance:
    """Where both bundles of a pair come from, and who built them, as far as the registry knows."""

    git_commit: str | None = None
    dvc_lock_sha256: str | None = None
    builders: tuple[str, ...] = ()
    """Whoever registered either bundle first; empty when that is not known of one."""


@dataclass(frozen=True)
class Facts:
    """What the gates look at."""

    model: str
    loss_max_abs: float
    diverse: tuple[Diversity, ...]
    primary: Standing
    backup: Standing
    now: datetime
    rehearsal: Rehearsal | None = None
    drills: tuple[str, ...] = ()
    """What the recipe wants to be drilled."""
    scripts: Mapping[str, str] = field(default_factory=dict)
    """The sha256 of those scripts as they are now, by name; a drill of others under the same names does not count."""

    provenance: Provenance = Provenance()
    approver: str | None = None
    """Who promotes."""
    in_force: Pair | None = None
    """The pair that the channel names now; the same pair again is no change."""
    revoked_keys: tuple[str, ...] = ()
    """What a channel of the model revokes; nodes load nothing that such a key signed."""

    @property
    def pair(self) -> Pair:
        """Return the two bundles by their ids."""
        return Pair(self.primary.bundle_id, self.backup.bundle_id)

    def standing(self, role: Role) -> Standing:
        """Return the facts of one role's bundle."""
        return self.primary if role is Role.PRIMARY else self.backup


@dataclass(frozen=True)
class Gate:
    """One gate and how it went, in words."""

    name: str
    passed: bool
    finding: str


@dataclass(frozen=True)
class Promote:
    """Every gate passes."""

    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class Refuse:
    """At least one gate fails; ``reasons`` has a sentence for each that does."""

    gates: tuple[Gate, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return what failed."""
        return tuple(f"{gate.name}: {gate.finding}" for gate in self.gates if not gate.passed)


def decide(policy: PromotionPolicy, facts: Facts) -> Promote | Refuse:
    """Judge a verified pair by every gate of the policy."""
    gates = (*_judge(policy.gates, facts), *_by_good_keys(facts), *_in_time(policy.freeze, facts))
    return Promote(gates) if all(gate.passed for gate in gates) else Refuse(gates)


def _judge(gates: Gates, facts: Facts) -> Iterator[Gate]:
    bound = gates.loss_high_max_ratio_of_budget * facts.loss_max_abs
    for standing in (facts.primary, facts.backup):
        yield Gate(
            f"{standing.role} loss",
            standing.loss_high <= bound,
            f"{standing.candidate} may lose up to {standing.loss_high:.4g}, allowed is {bound:.4g}",
        )
        yield Gate(
            f"{standing.role} latency",
            standing.latency_ratio_p50 <= gates.latency_p50_max_ratio,
            f"{standing.candidate} takes {standing.latency_ratio_p50:.2f} × the float model's time, "
            f"allowed is {gates.latency_p50_max_ratio:g} ×",
        )
    yield _same_contract(facts)
    yield _two_bundles(facts)
    for kind in facts.diverse:
        yield _diverse(kind, facts)
    if gates.ask_for_drill:
        yield from _drilled(gates, facts)
    if gates.provenance:
        yield _provenance(gates.provenance, facts)
    if gates.separate_duties:
        yield _two_people(facts)


def _provenance(wanted: tuple[Origin, ...], facts: Facts) -> Gate:
    known = {Origin.GIT_COMMIT: facts.provenance.git_commit, Origin.DVC_LOCK: facts.provenance.dvc_lock_sha256}
    missing = [str(one) for one in wanted if not known[one]]
    finding = ", ".join(f"{one} {(known[one] or '')[:12]}" for one in wanted if known[one])
    advice = "build it with `dvc repro` in a git repository that has a commit, then register it"
    return Gate("provenance", not missing, f"{' and '.join(missing)} not known; {advice}" if missing else finding)


def _two_people(facts: Facts) -> Gate:
    builders, approver = facts.provenance.builders, facts.approver
    if not builders or approver is None:
        who = "promotes it" if builders else "built it"
        return Gate("separate duties", False, f"it is not known who {who}; set HOTSPARE_PERSON or git's user.email")
    named = " and ".join(builders)
    differ = approver.strip().casefold() not in {one.strip().casefold() for one in builders}
    advice = f"have somebody else run `hotspare promote {facts.model}`"
    return Gate(
        "separate duties", differ, f"{named} built it, {approver} promotes it" + ("" if differ else f"; {advice}")
    )


def _by_good_keys(facts: Facts) -> Iterator[Gate]:
    if not facts.revoked_keys:
        return
    for standing in (facts.primary, facts.backup):
        is_good, hint = standing.key_hint not in facts.revoked_keys, standing.key_hint[:12]
        advice = "pack that build with another key and promote it where it is packed"
        finding = f"the key {hint} signed it" if is_good else f"the key {hint} that signed it is revoked; {advice}"
        yield Gate(f"{standing.role} key", is_good, finding)


def _in_time(freezes: tuple[Freeze, ...], facts: Facts) -> Iterator[Gate]:
    """Judge the freezes: what keeps the pair is no change, or a channel could not be renewed while one lasts."""
    holding = [freeze for freeze in freezes if freeze.ends_at(facts.now) is not None]
    if facts.pair == facts.in_force:
        holding = []
    for freeze in holding:
        end = freeze.ends_at(facts.now)
        yield Gate("freeze", False, f"{freeze.why}; it ends at {to_text(end) if end else 'no time'}")
    if freezes and not holding:
        yield Gate("freeze", True, "nothing is frozen now" if facts.pair != facts.in_force else "the pair stays")


def _same_contract(facts: Facts) -> Gate:
    same = facts.primary.io_contract_sha256 == facts.backup.io_contract_sha256
    verb = "share" if same else "do not share"
    return Gate("io contract", same, f"primary and backup {verb} one set of inputs and outputs")


def _two_bundles(facts: Facts) -> Gate:
    differ = facts.primary.bundle_id != facts.backup.bundle_id
    finding = "primary and backup are two bundles" if differ else f"both are bundle {facts.primary.bundle_id[:12]}"
    return Gate("two bundles", differ, finding)


def _diverse(kind: Diversity, facts: Facts) -> Gate:
    field = {Diversity.SCHEME: "scheme", Diversity.ENGINE: "format"}[kind]
    primary, backup = getattr(facts.primary, field), getattr(facts.backup, field)
    finding = f"the recipe asks for another {kind}; they have {primary} and {backup}"
    return Gate(f"diverse {kind}", primary != backup, finding)


def _drilled(gates: Gates, facts: Facts) -> Iterator[Gate]:
    held, advice = facts.rehearsal, f"run `hotspare drill {facts.model}`"
    if held is None:
        yield Gate("drill", False, f"no drill of this pair is attested; {advice}")
        return
    missing = [name for name in facts.drills if name not in held.scripts]
    changed = [name for name, digest in facts.scripts.items() if held.scripts.get(name, digest) != digest]
    flaws = {
        "of another pair": held.pair != facts.pair,
        "in the simulated world alone": not held.is_live,
        "that missed its objectives": not held.passed,
        f"without {', '.join(missing)}": bool(missing),
        f"by other scripts than those of now ({', '.join(changed)})": bool(changed),
    }
    told = " and ".join(flaw for flaw, holds in flaws.items() if holds)
    yield Gate("drill", not told, f"the attested drill is one {told}; {advice}" if told else "this pair passed it")
    if gates.drill_max_age_days is not None:
        days = (facts.now - held.ended_at).total_seconds() / _DAY_SECONDS
        passed = -_CLOCKS_APART_DAYS <= days <= gates.drill_max_age_days
        age = f"it was held {days:.3g} days ago" if days >= 0 else f"it ends {-days:.3g} days after this machine's time"
        allowed = f"allowed are {gates.drill_max_age_days:g}"
        yield Gate("drill age", passed, f"{age}, {allowed}" if passed else f"{age}, {allowed}; {advice}")
    if gates.drill_rto_ms_max is not None:
        yield _restored(held.rto_ms_p95, gates.drill_rto_ms_max)


def _restored(rto_ms: float | None, most: float) -> Gate:
    if rto_ms is None:
        return Gate(
            "drill RTO", False, "the attested drill tells no time to restore: nothing was struck, or not all came back"
        )
    finding = f"service was restored after {rto_ms:.4g} ms, allowed are {most:g} ms"
    return Gate("drill RTO", rto_ms <= most, finding)
