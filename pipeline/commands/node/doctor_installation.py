"""Whether the packages of the base install and of each extra are there as declared, and whether the engines start."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement

from pipeline.core.checks import Finding, Word
from pipeline.core.environment import for_children

_DISTRIBUTION = "hotspare"
_ENGINES = {"LiteRT": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter",
            "onnxruntime": "onnxruntime"}  # fmt: skip
_START_SECONDS_MAX = 120


def installation() -> Iterator[Finding]:
    """Yield how the base install, each engine that is there, and each extra are."""
    told = [Requirement(text) for text in metadata.requires(_DISTRIBUTION) or ()]
    base = [one for one in told if _is_of("", one)]
    yield _base_finding(base, tuple(_problems(base)))
    for engine, module in _ENGINES.items():
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            yield _engine(engine, module)
    for extra in metadata.metadata(_DISTRIBUTION).get_all("Provides-Extra") or ():
        wanted = [one for one in told if _is_of(extra, one) and not _is_of("", one)]
        yield extra_finding(extra, wanted, tuple(_problems(wanted)))


def _is_of(extra: str, wanted: Requirement) -> bool:
    return wanted.marker is None or wanted.marker.evaluate({"extra": extra})


def _problems(wanted: Iterable[Requirement]) -> Iterator[str]:
    for one in wanted:
        try:
            version = metadata.version(one.name)
        except metadata.PackageNotFoundError:
            yield f"{one.name} is not installed"
            continue
        if not one.specifier.contains(version, prereleases=True):
            yield f"{one.name} is {version}, asked for is {one.specifier}"


def _base_finding(wanted: list[Requirement], problems: tuple[str, ...]) -> Finding:
    if problems:
        return Finding("base install", Word.FAIL, f"{'; '.join(problems)}: run `pip install hotspare` again")
    return Finding("base install", Word.PASS, f"{metadata.version(_DISTRIBUTION)}, {len(wanted)} packages as declared")


def extra_finding(extra: str, wanted: list[Requirement], problems: tuple[str, ...]) -> Finding:
    """Judge an extra: what is not needed here need not be installed, so nothing of it is a failure."""
    what = f"extra {extra}"
    if not problems:
        return Finding(what, Word.PASS, f"{len(wanted)} packages as declared")
    told = f"{len(problems)} of {len(wanted)} packages" if len(problems) > 1 else problems[0]
    are = " are missing or of another version" if len(problems) > 1 else ""
    return Finding(what, Word.NOTE, f"{told}{are}; where it is needed, `pip install 'hotspare[{extra}]'`")


def _engine(engine: str, module: str) -> Finding:
    """Start an engine in a process of its own: on a processor that lacks an instruction it is killed."""
    what, command = f"engine {engine}", [sys.executable, "-c", f"import {module}"]
    try:
        done = subprocess.run(
            command, env=for_children(), capture_output=True, text=True, timeout=_START_SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding(what, Word.FAIL, f"did not start in {_START_SECONDS_MAX} s")
    if done.returncode == 0:
        return Finding(what, Word.PASS, "starts")
    last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    killed = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "does not start"
    return Finding(what, Word.FAIL, f"{killed}: {last}")
