"""``python -m pipeline.online SETTINGS.json``: one member of a pair that learns online, until it is stopped."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.bundle.policy import load_policy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.verify import verify_bundle
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError, KeyFileError, UsageError
from pipeline.core.files import read_json
from pipeline.core.schema import Rule, SchemaProblems, read
from pipeline.online.leading import Terms
from pipeline.online.member import SOCKET, Keeping, Member, Place
from pipeline.seal.keys import load_private_key

_SOCKET_PATH_BYTES_MAX = 107  # unix(7)


@dataclass(frozen=True)
class Settings:
    """One member; paths are relative to the working folder."""

    seat: Annotated[int, Rule("Which of the two: seat 0 leads first.", minimum=0, maximum=1)]
    folder: Annotated[str, Rule("Where it keeps its log, its epoch, its checkpoint and its socket.")]
    other: Annotated[str, Rule("The other member's folder.")]
    base: Annotated[str, Rule("The bundle that learns.")]
    trust: Annotated[str, Rule("The trust policy.")]
    keys: Annotated[str, Rule("Folder of the key for updates.")]
    ahead_max: Annotated[int, Rule("Updates acknowledged before both have them; 0 is synchronous.", minimum=0)] = 0
    lease_s: Annotated[float, Rule("How long a leader acknowledges without hearing.", minimum=0.05, maximum=60)] = 1.0
    promise_s: Annotated[float, Rule("How long a follower waits before it takes over.", maximum=120)] = 1.5
    checkpoint_every: Annotated[int, Rule("Updates between checkpoints.", minimum=1)] = Keeping.every
    window: Annotated[int, Rule("Updates that the log reaches back at least.", minimum=1)] = Keeping.window


def load_settings(path: Path) -> Settings:
    """Load a member's settings; raises UsageError with every problem found."""
    try:
        settings = read(Settings, read_json(path, UsageError))
    except SchemaProblems as error:
        raise UsageError(f"{path}: {error}") from error
    if settings.promise_s < 1.25 * settings.lease_s:
        raise UsageError(f"{path}: promise_s must be at least 1.25 times lease_s, or an old leader is not silent yet.")
    for folder in (settings.folder, settings.other):
        if len(os.fsencode(Path(folder) / SOCKET)) > _SOCKET_PATH_BYTES_MAX:
            raise UsageError(f"{path}: {folder} is too long a path for a Unix socket; use a shorter folder.")
    return settings


def make_member(settings: Settings) -> Member:
    """Verify the base bundle and open the log; raises what these raise, KeyFileError when the key may not seal here."""
    policy = load_policy(Path(settings.trust))
    base = verify_bundle(Path(settings.base), policy, utc_now())
    key = load_private_key(Path(settings.keys), {})
    if key_hint(key.public_key()) not in policy.update_keys(base.model):
        raise KeyFileError(f"{settings.trust} does not pin the key in {settings.keys} for updates of {base.model}.")
    place = Place(settings.seat, Path(settings.folder), Path(settings.other))
    terms = Terms(settings.ahead_max, settings.lease_s, settings.promise_s)
    return Member(place, terms, base, policy, key, Keeping(settings.checkpoint_every, settings.window))


def main(arguments: list[str]) -> int:
    """Run a member; prints one sentence and returns its exit code when it cannot."""
    if len(arguments) != 1:
        print("Name one file of settings: python -m pipeline.online SETTINGS.json", file=sys.stderr)
        return UsageError.exit_code
    try:
        asyncio.run(make_member(load_settings(Path(arguments[0]))).run())
    except HotspareError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def run_logged(folder: str) -> None:
    """Run the member whose ``settings.json`` is in ``folder``, its stderr to a file beside it: for forked processes."""
    log = os.open(Path(folder) / "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stderr.fileno())
    sys.exit(main([str(Path(folder) / "settings.json")]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
