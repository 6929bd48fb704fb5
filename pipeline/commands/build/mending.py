"""Looking at what channel folder and registry say of a model, and carrying out what makes them agree.

What disagrees, and what mends it, is decided in ``registry/agreement.py``.
"""

from pipeline.bundle.policy import TrustPolicy
from pipeline.commands.build.channel_folder import is_whole, read_folder, write_folder
from pipeline.core.errors import Unreachable
from pipeline.registry.agreement import Drift, Mend, PointAlias, Record, Seen, SetTag, WriteFolder, find_drift
from pipeline.registry.history import DONE_TAG, Held, history_tags, read_history, tag_beyond
from pipeline.registry.registered import latest_pair
from pipeline.registry.store import Registry

_ROUNDS_MAX = 10


def look(registry: Registry, model: str, trust: TrustPolicy, depot: Held | None = None) -> Seen:
    """Read what the folder and the registry say of a model.

    The history is read first: what is recorded while this looks is seen by whoever recorded it.
    """
    tags = registry.model_tags(model)
    folder = read_folder(model, trust)
    return Seen(
        model=model,
        folder=folder,
        folder_is_whole=folder is not None and is_whole(folder),
        history=read_history(tags, model, trust),
        done=tags.get(DONE_TAG),
        versions=registry.versions(model),
        aliases=registry.aliases(model),
        latest=latest_pair(tags),
        depot=depot,
    )


def align(registry: Registry, model: str, trust: TrustPolicy, depot: Held | None = None) -> tuple[Drift, ...]:
    """Make folder, record and aliases say what the newest channel says; returns what had to be mended.

    Ends only after a look that found nothing to mend: a channel that another folder records meanwhile is seen by it or
    by that folder's own call, and whoever moves the aliases last moves them to the newest.
    """
    return aligned(registry, model, trust, depot, moves_aliases=True)[0]


def aligned(
    registry: Registry, model: str, trust: TrustPolicy, depot: Held | None, *, moves_aliases: bool
) -> tuple[tuple[Drift, ...], Seen]:
    """Do what :func:`align` does, aliases only if asked to; returns the last look, too."""
    mended: list[Drift] = []
    for _ in range(_ROUNDS_MAX):
        seen = look(registry, model, trust, depot)
        found = [drift for drift in find_drift(seen) if drift.mend is not None]
        if not moves_aliases:
            found = [drift for drift in found if not isinstance(drift.mend, PointAlias)]
        if not found:
            return tuple(mended), seen
        for drift in found:
            carry_out(registry, model, drift.mend)
        mended += found
    raise Unreachable(
        f"{model} does not stay as it is mended ({found[0].part}: {found[0].finding}): others promote it without a "
        "pause, or somebody goes on changing it. Run the same command again in a while."
    )


def carry_out(registry: Registry, model: str, mend: Mend | None) -> None:
    """Do one step of mending; doing it again does no harm."""
    match mend:
        case WriteFolder(held):
            write_folder(model, held)
        case Record(held):
            _record(registry, model, held)
        case PointAlias(alias, None):
            registry.remove_alias(model, alias)
        case PointAlias(alias, int(number)):
            registry.set_alias(model, alias, number)
        case SetTag(key, None):
            registry.untag_model(model, key)
        case SetTag(key, str(value)):
            registry.tag_model(model, key, value)


def _record(registry: Registry, model: str, held: Held) -> None:
    if tag_beyond(held) in registry.model_tags(model):
        registry.untag_model(model, tag_beyond(held))
    for key, text in history_tags(held):
        registry.tag_model(model, key, text)
