"""Whether dvc will start in a project: it writes two files in place, and refuses to run over half of either."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from pipeline.core.checks import Finding, Word

_PROCESSES = Path(".dvc/tmp/rwlock")
_STAGES = Path("dvc.lock")


def dvc(root: Path) -> Iterator[Finding]:
    """Yield how dvc's own files in the project at a folder are."""
    if not (root / ".dvc").is_dir():
        yield Finding("dvc", Word.FAIL, "there is no .dvc here; run `dvc init`")
        return
    halves = tuple(_halves(root))
    yield from halves or (Finding("dvc", Word.PASS, "initialized"),)


def _halves(root: Path) -> Iterator[Finding]:
    half = "was half written by a dvc that was killed;"
    if not _is_whole_json(root / _PROCESSES):
        yield Finding(str(_PROCESSES), Word.FAIL, f"{half} remove it when no other dvc runs here")
    if not is_whole_lock(root / _STAGES):
        text = f"{half} `git checkout -- {_STAGES}`, or remove it and every stage runs again"
        yield Finding(str(_STAGES), Word.FAIL, text)


def _is_whole_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return True


def is_whole_lock(path: Path) -> bool:
    """Tell whether dvc can read a dvc.lock whose writer may have been killed; without one it starts afresh."""
    try:
        text = path.read_text(encoding="utf-8")
        said = yaml.safe_load(text)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return text.endswith("\n") and _is_whole_mapping(said)


def _is_whole_mapping(said: object) -> bool:
    if not isinstance(said, Mapping) or "schema" not in said:
        return False
    stages = said.get("stages", {})
    return isinstance(stages, Mapping) and all(map(_is_whole_stage, stages.values()))


def _is_whole_stage(stage: object) -> bool:
    if not isinstance(stage, Mapping) or not stage.get("cmd"):
        return False
    entries = [stage.get(part, []) for part in ("deps", "outs")]
    params = stage.get("params", {})
    return (
        all(
            isinstance(part, list) and all(isinstance(one, Mapping) and "path" in one for one in part)
            for part in entries
        )
        and isinstance(params, Mapping)
        and all(isinstance(values, Mapping) for values in params.values())
    )
