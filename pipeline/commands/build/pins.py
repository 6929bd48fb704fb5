"""Whether what lies in the project is what ``dvc.lock`` and the commit say: asked of dvc and git, judged purely."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipeline.bundle.provenance import LOCK
from pipeline.core import layout
from pipeline.core.environment import STORE, for_children
from pipeline.core.errors import MissingStageError
from pipeline.core.printable import printable
from pipeline.seal.keys import PUBLIC_KEY

_PACK = "pack"
_SECONDS_MAX = 600
# Bundle ids do not depend on the key, and a release packs anew with its own.
_OF_NO_WEIGHT = str(layout.KEYS / PUBLIC_KEY)


def stale_stages(models: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return for each model what in its stages up to ``pack`` is not as ``dvc.lock`` says, in words.

    Raises MissingStageError where there is no lock, or dvc cannot tell.
    """
    if not Path(LOCK).is_file():
        raise MissingStageError(f"{LOCK} does not exist, which pins what was measured; run `dvc repro` first.")
    return {model: stale(json.loads(_status(f"{_PACK}@{model}"))) for model in models}


def _status(target: str) -> str:
    command = [sys.executable, "-m", "dvc", "status", "--json", "--with-deps", target]
    environment = for_children(given=STORE)  # what a stage depends on may lie in a bucket
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS_MAX)
    if done.returncode:
        said = printable((done.stderr.strip() or "no word").splitlines()[-1])
        raise MissingStageError(f"dvc cannot tell whether {target} is current ({said}); mend that first.")
    return done.stdout


def stale(status: Mapping[str, Sequence[object]]) -> tuple[str, ...]:
    """Return what ``dvc status --json`` tells to differ, one sentence a stage, without what is of no weight.

    The bundles that ``pack`` wrote are of none: they are packed anew, and compared.
    """
    told = []
    for stage in sorted(status):
        parts = sorted(set(_differences(status[stage], is_pack=stage.split("@")[0] == _PACK)))
        if parts:
            told.append(f"{printable(stage)}: {', '.join(parts)}")
    return tuple(told)


def _differences(changes: Sequence[object], *, is_pack: bool) -> Iterator[str]:
    for change in changes:
        if not isinstance(change, Mapping):
            yield printable(str(change))
            continue
        for kind, places in change.items():
            if not (is_pack and kind == "changed outs"):
                yield from _places(places)


def _places(places: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for place, how in places.items():
        if isinstance(how, Mapping):
            yield from _places(how, f"{place} ")
        elif place != _OF_NO_WEIGHT:
            yield printable(f"{prefix}{place} is {how}")


def uncommitted() -> tuple[str, ...] | None:
    """Return tracked files that differ from the commit, besides ``dvc.lock``, which a release names by itself.

    None where git does not know the project.
    """
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", f":(exclude){LOCK}"]
    try:
        done = subprocess.run(
            command, env=for_children(), capture_output=True, text=True, check=False, timeout=_SECONDS_MAX
        )
    except OSError:
        return None
    return tuple(printable(line[3:]) for line in done.stdout.splitlines()) if done.returncode == 0 else None
