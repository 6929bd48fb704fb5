"""Which older channels a model can go back to, pure."""

from dataclasses import dataclass

from pipeline.core.errors import PromotionRefused
from pipeline.core.names import Role
from pipeline.registry.agreement import Seen
from pipeline.registry.history import Held, taken_back
from pipeline.registry.store import version_of


@dataclass(frozen=True)
class Return:
    """One older channel; ``hindrance`` says why one cannot go back to its pair, None when one can."""

    held: Held
    hindrance: str | None


def returns(seen: Seen) -> tuple[Return, ...]:
    """Return every channel before the one in force, newest first."""
    older = [one for one in seen.all_held if seen.in_force and one.place < seen.in_force.place]
    return tuple(Return(one, _hindrance(seen, one)) for one in reversed(older))


def choose_return(seen: Seen, seq: int | None) -> tuple[Held, int]:
    """Return the channel to go back to, and the number of the one in force.

    By default it is the newest before it that no rollback took back.

    Raises PromotionRefused with every channel that one can go back to, and why not to the others.
    """
    model, found = seen.model, returns(seen)
    if seen.in_force is None:
        raise PromotionRefused(f"{model} was never promoted; there is nothing to go back from.")
    left = taken_back(seen.all_held)
    for one in found:
        if one.held.channel.seq == seq or (seq is None and one.hindrance is None and one.held.pair not in left):
            if one.hindrance is None:
                return one.held, seen.in_force.channel.seq
            break
    if seq is None:
        summary = f"{model} has no older channel to go back to by itself"
    elif any(one.held.channel.seq == seq for one in found):
        summary = f"{model} cannot go back to seq {seq}"
    else:
        summary = f"{model} has no channel seq {seq} before the one in force, seq {seen.in_force.channel.seq}"
    listed = "; these are known:" if found else ", and none older is known."
    raise PromotionRefused(f"{summary}{listed}", [_in_words(one) for one in found])


def _hindrance(seen: Seen, one: Held) -> str | None:
    if seen.in_force is not None and one.pair == seen.in_force.pair:
        return "it is the pair in force"
    revoked = seen.revoked
    for role in Role:
        bundle_id = one.channel.ref(role).bundle_id
        if bundle_id in revoked.bundles:
            return f"its {role} {bundle_id[:12]} is revoked"
        if version_of(seen.versions, bundle_id) is None:
            return f"no version in the registry holds its {role} {bundle_id[:12]}"
    return None


def _in_words(one: Return) -> str:
    channel = one.held.channel
    told = one.hindrance or f"hotspare rollback {channel.model} --to {channel.seq}"
    return f"seq {channel.seq} of {channel.issued_at}: {told}"
