"""Renewing the channel of a model that is followed: the same pair under the next number, as it stands now."""

from dataclasses import dataclass

from pipeline.commands.build.project import Project
from pipeline.commands.build.reissuing import reissue, require_sound
from pipeline.registry.channel_plan import Issue


@dataclass(frozen=True)
class Renewed:
    """A channel that was signed for the pair in force; ``frozen`` says which freezes it was signed in."""

    seq: int
    refresh_by: str
    not_after: str
    frozen: tuple[str, ...]
    published: str


def renew(project: Project, model: str) -> Renewed | None:
    """Sign the pair in force anew if it is due, move no alias, publish; None: the depot or others were ahead.

    As with a rollback no gate is asked, for the pair passed them, but both bundles are verified as of now. Raises
    PromotionRefused for a revoked bundle or key, the Untrusted error that fits for a damaged bundle, MissingStageError
    for one that is nowhere, KeyFileError, Unreachable.
    """
    seen = project.look(model, project.offered_if_it_answers(model))
    held = seen.in_force
    if held is not None:
        require_sound(project, seen, held, f"The channel of {model} (seq {held.channel.seq}) is not renewed")
    made = reissue(project, seen, None, dry_run=False)
    if made.done is None or not isinstance(made.plan, Issue):
        return None
    newest = project.look(model).in_force
    assert newest is not None  # noqa: S101 - one was just signed
    channel = newest.channel
    frozen = tuple(one.why for one in project.policy.freeze if one.ends_at(project.now) is not None)
    return Renewed(channel.seq, channel.refresh_by, channel.not_after, frozen, made.published.strip())
