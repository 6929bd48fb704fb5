"""When an alias was moved: as the webhook told, as a tag of the registered model says, else when it is first seen."""

from collections.abc import MutableMapping
from datetime import datetime, timedelta

from pipeline.commands.build.project import Project
from pipeline.registry.following import Wish
from pipeline.registry.lag import MOVED_TAG, last_moved_at, moved_at, moved_text
from pipeline.registry.webhook import AliasEvent

_CLOCKS_APART = timedelta(seconds=60)

Moments = MutableMapping[tuple[str, str, int | None], AliasEvent]


def moment_of(project: Project, model: str, wish: Wish, told: Moments) -> datetime:
    """Return when an alias was moved, now at the latest, and keep it as a tag, so that a killed process finds it."""
    known = moved_at(project.registry.model_tags(model), wish.alias, wish.version)
    event = told.get((model, wish.alias, wish.version.number))
    moments = [moment for moment in (known, event.at if event else None) if moment is not None]
    moment = min([*moments, project.now])
    if moment != known:
        project.registry.tag_model(model, f"{MOVED_TAG}.{wish.alias}", moved_text(wish.version, moment))
    told.pop((model, wish.alias, wish.version.number), None)  # the same version may be wished for again
    return moment


def forget_past(model: str, told: Moments, looked_at: datetime) -> None:
    """Forget what was told of moves that were taken back before anybody looked."""
    for key, event in list(told.items()):
        if event.model == model and event.at < looked_at - _CLOCKS_APART:
            told.pop(key, None)


def last_moment(project: Project, model: str, issued_at: datetime) -> datetime | None:
    """Return the latest move; one that was taken back before it was followed is forgotten."""
    tags = project.registry.model_tags(model)
    moment = last_moved_at(tags)
    if moment is None or moment < issued_at + _CLOCKS_APART:
        return moment
    for key in tags:
        if key.startswith(f"{MOVED_TAG}."):
            project.registry.untag_model(model, key)
    return None
