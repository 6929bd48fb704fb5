"""Promotion, pure: a policy and measured facts in; promote, or refuse with every reason, out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pipeline.bundle.channel import Channel
from pipeline.core.clock import from_text, to_text
from pipeline.core.errors import RecipeError
from pipeline.core.files import read_bytes
from pipeline.core.names import Format, Role
from pipeline.core.recipe import Diversity
from pipeline.core.schema import Rule
from pipeline.core.strict_yaml import read_yaml
from pipeline.registry.follow_terms import DEFAULT_FOLLOW_TERMS, FollowTerms
from pipeline.registry.freezing import Freeze

POLICY = Path("mlflow/promotion.yaml")
_DAY_SECONDS = 86_400
_CLOCKS_APART_DAYS = 300 / _DAY_SECONDS  # two machines' clocks may differ by so much


class Mode(StrEnum):
    """Who promotes: ``register`` by itself, or a person with ``hotspare promote``."""

    AUTOMATIC = "automatic"
    MANUAL = "manual"


class Origin(StrEnum):
    """Something that tells where a bundle comes from."""

    GIT_COMMIT = "git_commit"
    DVC_LOCK = "dvc_lock"


@dataclass(frozen=True)
class Gates:
    """What both bundles of a pair must meet, beyond the recipe's own budgets."""

    loss_high_max_ratio_of_budget: Annotated[
        float, Rule("Upper end of the loss interval over the recipe's budgets.loss_max_abs.", minimum=0, maximum=1)
    ] = 1.0
    latency_p50_max_ratio: Annotated[
        float, Rule("Median latency over the float reference's, measured interleaved.", minimum=0)
    ] = 3.0
    drill_max_age_days: Annotated[
        float | None, Rule("This pair passed a live drill, attested, at most so long ago.", minimum=0)
    ] = None
    drill_rto_ms_max: Annotated[
        float | None, Rule("Time to restore service in that drill, its 95th percentile.", minimum=0)
    ] = None

    provenance: Annotated[
        tuple[Origin, ...], Rule("What must be known of where a bundle comes from: git_commit, dvc_lock.")
    ] = ()
    separate_duties: Annotated[bool, Rule("Whoever built a bundle may not be the one who promotes it.")] = False

    @property
    def ask_for_drill(self) -> bool:
        """Tell whether a pair must have been drilled."""
        return self.drill_max_age_days is not None or self.drill_rto_ms_max is not None


@dataclass(frozen=True)
class ChannelTerms:
    """What a new channel says of itself."""

    epoch: Annotated[int, Rule("Raise it only after the channel's and the registry's history are lost.", minimum=1)] = 1
    refresh_days: Annotated[float, Rule("Days until register or follow renews the channel.", minimum=0.01)] = 30.0
    valid_days: Annotated[float, Rule("Days until nodes refuse the channel.", minimum=0.01)] = 90.0

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.valid_days <= self.refresh_days:
            yield "valid_days: must be larger than refresh_days, or the channel expires before it is renewed"


@dataclass(frozen=True)
class PromotionPolicy:
    """``mlflow/promotion.yaml``."""

    mode: Mode
    gates: Gates = Gates()
    channel: ChannelTerms = ChannelTerms()
    freeze: Annotated[tuple[Freeze, ...], Rule("When the pair in force is not changed, except by a rollback.")] = ()
    depot: Annotated[str | None, Rule("Where promoted releases are published for nodes: a folder, or s3://….")] = None
    follow: FollowTerms = DEFAULT_FOLLOW_TERMS

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.gates.separate_duties and self.mode is Mode.AUTOMATIC:
            yield "gates.separate_duties: with `mode: automatic` whoever builds would promote, too; use `mode: manual`"


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


@dataclass(frozen=True)
class Pair:
    """The bundle ids of a primary and its backup."""

    primary: str
    backup: str


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
    gates = (*_judge(policy.gates, facts), *_in_time(policy.freeze, facts))
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


@dataclass(frozen=True)
class Standard:
    """What a channel says now: the pair, its place in the order and when it wants renewal."""

    pair: Pair
    epoch: int
    seq: int
    refresh_by: datetime

    @staticmethod
    def of(channel: Channel) -> "Standard":
        """Return what a channel says."""
        pair = Pair(channel.primary.bundle_id, channel.backup.bundle_id)
        return Standard(pair, channel.epoch, channel.seq, from_text(channel.refresh_by))


@dataclass(frozen=True)
class Keep:
    """The channel already names this pair and is not due."""


@dataclass(frozen=True)
class Issue:
    """A new channel is to be signed."""

    epoch: int
    seq: int
    issued_at: datetime
    refresh_by: datetime
    not_after: datetime
    why: str


def plan_channel(
    terms: ChannelTerms, current: Standard | None, registry_seq: int, pair: Pair, now: datetime, why: str | None = None
) -> Keep | Issue:
    """Decide whether a pair needs a new channel, and which sequence number it takes.

    ``registry_seq`` is the highest number that the registry knows to have been begun (0 for none): a number is
    never used twice, even when the channel file was lost or a promotion was killed half-way. ``why`` is a reason of
    the caller's to sign one in any case.
    """
    why = why or _why_issue(terms, current, pair, now)
    if why is None:
        return Keep()
    seq = max(current.seq if current else 0, registry_seq) + 1
    epoch = max(current.epoch if current else 0, terms.epoch)
    refresh_by = now + timedelta(days=terms.refresh_days)
    return Issue(epoch, seq, now, refresh_by, now + timedelta(days=terms.valid_days), why)


def _why_issue(terms: ChannelTerms, current: Standard | None, pair: Pair, now: datetime) -> str | None:
    if current is None:
        return "promoted"
    if current.pair != pair:
        swapped = current.pair == Pair(pair.backup, pair.primary)
        return "roles swapped" if swapped else "promoted"
    if current.epoch < terms.epoch:
        return "new epoch"
    return "renewed" if now >= current.refresh_by else None


def parse_policy(text: str | bytes, place: str) -> PromotionPolicy:
    """Read a promotion policy from YAML text; raises RecipeError with every problem found."""
    return read_yaml(PromotionPolicy, text, place, RecipeError)


def load_policy(path: Path = POLICY) -> PromotionPolicy:
    """Load ``mlflow/promotion.yaml``; raises RecipeError when it is missing or malformed."""
    text = read_bytes(path, RecipeError, "copy it from the hotspare project, or run `hotspare init`")
    return parse_policy(text, str(path))
