"""What one member is told in its settings file, and the member made of it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.bundle.learning import read_learning
from pipeline.bundle.manifest import GOLDEN_FILE, TOLERANCES_FILE
from pipeline.bundle.policy import load_policy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.reading import SIGNATURE_FILE
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core.clock import utc_now
from pipeline.core.errors import KeyFileError, ModelError, UsageError
from pipeline.core.files import read_json
from pipeline.core.schema import Rule, SchemaProblems, read
from pipeline.online.leading_nouns import Terms
from pipeline.online.learner import update_bytes
from pipeline.online.member import Member
from pipeline.online.place import SOCKET, Keeping, Place
from pipeline.online.records import PAYLOAD_BYTES_MAX
from pipeline.online.wire import FRAME_BYTES_MAX
from pipeline.seal.keys import PUBLIC_KEY, load_private_key

_SOCKET_PATH_BYTES_MAX = 107  # unix(7)
_PROMISE_TIMES_LEASE = 1.25
_ROOM_BYTES = 64 << 10  # what a lent start has beside the state and the golden answers: a signature, names


@dataclass(frozen=True)
class Settings:
    """One member; paths are relative to the working folder."""

    seat: Annotated[int, Rule("Which of the two: seat 0 leads first.", minimum=0, maximum=1)]
    folder: Annotated[str, Rule("Where it keeps its log, its epoch, its checkpoint and its socket.", pattern=".+")]
    other: Annotated[str, Rule("The other member's folder.", pattern=".+")]
    base: Annotated[str, Rule("The bundle that learns.", pattern=".+")]
    trust: Annotated[str, Rule("The trust policy.", pattern=".+")]
    keys: Annotated[str, Rule("Folder of the key for updates.", pattern=".+")]
    ahead_max: Annotated[int, Rule("Updates acknowledged before both have them; 0 is synchronous.", minimum=0)] = 0
    lease_s: Annotated[float, Rule("How long a leader acknowledges without hearing.", minimum=0.05, maximum=60)] = 1.0
    promise_s: Annotated[float, Rule("How long a follower waits before it takes over.", maximum=120)] = 1.5
    checkpoint_every: Annotated[int, Rule("Updates between checkpoints.", minimum=1)] = Keeping.every
    window: Annotated[int, Rule("Updates that the log reaches back at least.", minimum=1)] = Keeping.window


def load_settings(path: Path) -> Settings:
    """Load a member's settings; raises UsageError with every problem found."""
    try:
        settings = read(Settings, read_json(path, UsageError))
        problems = (*_unfit(settings), *_missing(settings))
    except SchemaProblems as error:
        problems = error.problems
    if problems:
        raise UsageError("\n".join(f"{path}: {problem}." for problem in problems))
    return settings


def _unfit(settings: Settings) -> Iterator[str]:
    if settings.promise_s < _PROMISE_TIMES_LEASE * settings.lease_s:
        yield (
            f"promise_s: less than {_PROMISE_TIMES_LEASE} times lease_s, so an old leader may not be silent when the "
            "other one takes over; raise it"
        )
    if Path(settings.folder).resolve() == Path(settings.other).resolve():
        yield "other: the member's own folder; name the other one's"
    for name, folder in (("folder", settings.folder), ("other", settings.other)):
        if len(os.fsencode(Path(folder) / SOCKET)) > _SOCKET_PATH_BYTES_MAX:
            yield f"{name}: too long a path for a Unix socket; use a shorter folder"


def _missing(settings: Settings) -> Iterator[str]:
    if not (Path(settings.base) / SIGNATURE_FILE).is_file():
        yield f"base: {settings.base} is no bundle; name the folder that {SIGNATURE_FILE} is in"
    if not Path(settings.trust).is_file():
        yield f"trust: {settings.trust} is no file; name the trust policy"
    if not (Path(settings.keys) / PUBLIC_KEY).is_file():
        yield f"keys: {settings.keys} holds no {PUBLIC_KEY}; name the folder of the key for updates"


def make_member(settings: Settings) -> Member:
    """Verify the base bundle and open the log; raises what these raise, KeyFileError when the key may not seal here."""
    policy = load_policy(Path(settings.trust))
    base = verify_bundle(Path(settings.base), policy, utc_now())
    key = load_private_key(Path(settings.keys), {})
    if key_hint(key.public_key()) not in policy.update_keys(base.model):
        raise KeyFileError(f"{settings.trust} does not pin the key in {settings.keys} for updates of {base.model}.")
    require_room(base)
    place = Place(settings.seat, Path(settings.folder), Path(settings.other))
    terms = Terms(settings.ahead_max, settings.lease_s, settings.promise_s)
    return Member(place, terms, base, policy, key, Keeping(settings.checkpoint_every, settings.window))


def require_room(base: VerifiedBundle) -> None:
    """Raise ModelError where an update would not fit a record of the log, or the log's start a message."""
    learning = read_learning(base.files)
    if update_bytes(learning) > PAYLOAD_BYTES_MAX:
        raise ModelError(
            f"An update of {base.model} takes {update_bytes(learning)} bytes, more than the {PAYLOAD_BYTES_MAX} of a "
            "record; learn on a model whose last layer reads fewer numbers."
        )
    golden = len(base.files[GOLDEN_FILE]) + len(base.files[TOLERANCES_FILE])
    if golden + PAYLOAD_BYTES_MAX + _ROOM_BYTES > FRAME_BYTES_MAX:
        raise ModelError(f"The golden answers of {base.model} take {golden} bytes, too many to lend; pack fewer rows.")
