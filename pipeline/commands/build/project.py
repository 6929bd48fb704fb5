"""What every command that promotes works with: the registry, both policies, the moment, and the project's lock."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.bundle.channel import Channel
from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.commands.build.mending import look
from pipeline.commands.build.published import depot_channel, publish
from pipeline.commands.build.publishing import NO_REPAIR, Published, Repair
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError, SurroundingsError, Unreachable, Untrusted, UsageError
from pipeline.core.files import locked
from pipeline.registry.access import STORE, open_registry
from pipeline.registry.agreement import Seen
from pipeline.registry.history import Held
from pipeline.registry.loading import experiment_name, project_root
from pipeline.registry.promotion_policy import PromotionPolicy
from pipeline.registry.promotion_policy import load_policy as load_promotion_policy
from pipeline.registry.store import Registry


@dataclass(frozen=True)
class Project:
    """An open project."""

    registry: Registry
    policy: PromotionPolicy
    trust: TrustPolicy
    now: datetime

    def look(self, model: str, depot: Held | None = None) -> Seen:
        """Read what the folder and the registry say of a model, and with ``depot`` what was found there."""
        return look(self.registry, model, self.trust, depot)

    def depot_channel(self, model: str) -> Held | None:
        """Return what the policy's depot offers of a model; None where it names none, or the depot has none.

        Raises Unreachable when it does not answer, SignatureInvalid or NotAccepted for a channel that is not ours.
        """
        return depot_channel(self.policy.depot, model, self.trust) if self.policy.depot else None

    def offered(self, model: str) -> Held | None:
        """Return what the depot offers that is ours; whoever put anything else there keeps nobody from signing.

        Publishing tells of it. Raises Unreachable when the depot does not answer.
        """
        try:
            return self.depot_channel(model)
        except Untrusted:
            return None

    def offered_if_it_answers(self, model: str) -> Held | None:
        """Return the same for what must not wait for a depot: going back, revoking, renewing."""
        try:
            return self.offered(model)
        except SurroundingsError:
            return None

    def publish(self, model: str) -> str:
        """Publish what is in force to the policy's depot, if there is one; returns what to tell of it, or nothing.

        Raises Unreachable when that fails: the promotion stands, and ``hotspare reconcile`` publishes it later.
        """
        done = self.repair_depot(model, NO_REPAIR)
        if done is None:
            return ""
        return f" Published: {done.bytes_new:,} of {done.bytes_total:,} bytes were new to the depot."

    def repair_depot(self, model: str, repair: Repair) -> Published | None:
        """Publish what is in force; None where there is nothing, or no depot. Raises Unreachable when that fails."""
        in_force = self.look(model).in_force
        if self.policy.depot is None or in_force is None:
            return None
        try:
            return publish(self.registry, model, in_force, self.policy.depot, self.trust, repair)
        except HotspareError as error:
            raise Unreachable(
                f"Channel seq {in_force.channel.seq} of {model} is in force, but it is not published: {error} "
                f"Then run `hotspare reconcile {model}`."
            ) from error


def one_at_a_time(root: Path) -> AbstractContextManager[None]:
    """Hold the project's lock: two commands of one project never register or promote at once."""
    return locked(root / STORE / ".lock")


@contextmanager
def opened_project() -> Iterator[Project]:
    """Open the working folder's project, alone: no other command of it registers or promotes meanwhile.

    Raises UsageError inside a dvc experiment, which promotes nothing.
    """
    experiment = experiment_name(os.environ)
    if experiment:
        raise UsageError(f"This runs inside the dvc experiment {experiment}, which promotes nothing; apply it first.")
    policy, trust = load_promotion_policy(), load_policy(layout.TRUST_POLICY)
    root = project_root(os.environ)
    with one_at_a_time(root):
        yield Project(open_registry(root), policy, trust, utc_now())


def named_models(models: list[str], trust: TrustPolicy) -> tuple[str, ...]:
    """Return the models a command is about: those it names, else all that the trust policy names."""
    unknown = [model for model in models if model not in trust.models]
    if unknown:
        known = ", ".join(trust.models)
        raise UsageError(f"{layout.TRUST_POLICY} does not name {', '.join(unknown)}; it names {known}.")
    return tuple(models) or tuple(sorted(trust.models))


def age_in_words(channel: Channel, now: datetime) -> str:
    """Return how old a channel is, and how long it lasts."""
    dates = channel.dates
    old, left = now - dates.issued_at, dates.not_after - now
    return f"{old.total_seconds() / 86_400:.1f} days old, " + (
        f"ends in {left.total_seconds() / 86_400:.1f} days" if left.total_seconds() > 0 else "ended"
    )
