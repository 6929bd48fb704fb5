"""Renewing what is followed once it is due; what stands against it is told once, and once more when it has ended.

It keeps nobody from being followed: another pair may be what mends it.
"""

import time

from pipeline.bundle.channel import Standing
from pipeline.commands.build.evidence import in_words
from pipeline.commands.build.follower_memory import Judged, Memory, Say, circumstances
from pipeline.commands.build.project import Project
from pipeline.commands.build.renewing import Renewed, renew
from pipeline.core.errors import InputError, Refusal, Untrusted
from pipeline.registry.agreement import Seen
from pipeline.registry.following import is_due


def renew_if_due(project: Project, seen: Seen, memory: Memory, say: Say) -> bool:
    """Renew the channel once it is due; tells whether something was done, so that all is to be looked at again."""
    if not is_due(seen, project.now):
        memory.unrenewed = None
        return False
    around, known = circumstances(project, seen), memory.unrenewed
    if known is None or not known.holds(around):
        try:
            made = renew(project, seen.model)
        except (Refusal, InputError, Untrusted) as error:
            memory.unrenewed = Judged(around, time.monotonic(), in_words(error))
        else:
            _tell_renewed(seen, made, say)
            return True
    _tell_unrenewed(project, seen, memory, say)
    return False


def unrenewed(memory: Memory) -> tuple[str, ...]:
    """Return why the channel that is due was not renewed; nothing where none is."""
    return () if memory.unrenewed is None else memory.unrenewed.outcome


def _tell_renewed(before: Seen, made: Renewed | None, say: Say) -> None:
    if made is not None:
        more = {"frozen": list(made.frozen), "told": made.published}
        was = before.in_force.channel.refresh_by if before.in_force else None
        dates = {"due_since": was, "refresh_by": made.refresh_by, "not_after": made.not_after}
        say("info", "renewed", seq=made.seq, **dates, **more)


def _tell_unrenewed(project: Project, seen: Seen, memory: Memory, say: Say) -> None:
    channel, reasons = seen.in_force.channel if seen.in_force else None, unrenewed(memory)
    has_ended = channel is not None and channel.dates.standing(project.now) is Standing.EXPIRED
    if channel is not None and memory.is_new("not renewed", channel.seq, has_ended, reasons):
        dates = {"due_since": channel.refresh_by, "not_after": channel.not_after, "has_ended": has_ended}
        level = "alarm" if has_ended else "error"
        say(level, "not renewed", seq=channel.seq, **dates, reasons=list(reasons))
