"""``bundle.json``: what a bundle is; and, pure, whether a node can run it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pipeline.core.names import MODEL_NAME, CandidateName, Format
from pipeline.core.schema import Rule

MANIFEST_FILE = "bundle.json"
IO_FILE = "io.json"
WARMUP_FILE = "warmup/inputs.npz"
GOLDEN_FILE = "golden/outputs.npz"
TOLERANCES_FILE = "golden/tolerances.json"
SCORECARD_FILE = "scorecard.json"
CARD_FILE = "MODEL_CARD.md"
LICENSE_FILE = "LICENSE"
REQUIRED_FILES = (
    MANIFEST_FILE,
    IO_FILE,
    WARMUP_FILE,
    GOLDEN_FILE,
    TOLERANCES_FILE,
    SCORECARD_FILE,
    CARD_FILE,
    LICENSE_FILE,
)

_SHA256 = Rule(pattern="[0-9a-f]{64}")
_RANGE = r">=\d+(\.\d+){0,3}(,<\d+(\.\d+){0,3})?"


class Engine(StrEnum):
    """What runs a model file."""

    LITERT = "litert"
    ONNXRUNTIME = "onnxruntime"


ENGINE_OF = {Format.TFLITE: Engine.LITERT, Format.ONNX: Engine.ONNXRUNTIME}

# The packages that can stand in for an engine's own, and from which version on.
STAND_INS = {Engine.LITERT: {"tflite-runtime": ">=2.14"}, Engine.ONNXRUNTIME: {}}


@dataclass(frozen=True)
class Entrypoint:
    """The model file and what runs it."""

    format: Format
    path: str
    engine: Engine


@dataclass(frozen=True)
class Runtime:
    """The engine's package, the versions it was checked against, and how many threads one session takes."""

    name: str
    version_range: Annotated[str, Rule("E.g. '>=2.3,<3'.", pattern=_RANGE)]
    threads: Annotated[int, Rule(minimum=1, maximum=256)]


@dataclass(frozen=True)
class Target:
    """A kind of node that the bundle is meant for."""

    arch: Annotated[str, Rule("Processor architecture as `uname -m` names it.")]
    min_ram_mb: Annotated[int, Rule(minimum=1)]


@dataclass(frozen=True)
class Parent:
    """The float export that the candidate was made from."""

    name: str
    sha256: Annotated[str, _SHA256]


@dataclass(frozen=True)
class RecipeMark:
    """The recipe and the digest of what in it shapes the model's bytes."""

    name: str
    build_sha256: Annotated[str, _SHA256]


@dataclass(frozen=True)
class Manifest:
    """What a bundle is: no clock, host, role or sequence number."""

    schema_version: Literal[1]
    model: Annotated[str, Rule(pattern=MODEL_NAME)]
    candidate: str
    entrypoint: Entrypoint
    runtime: Runtime
    targets: Annotated[tuple[Target, ...], Rule(min_items=1)]
    io_contract_sha256: Annotated[str, _SHA256]
    parent: Parent
    recipe: RecipeMark
    determinism: Annotated[str, Rule("What repeats exactly and what within golden tolerance, in words.")]
    licence: str

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        try:
            named = CandidateName.parse(self.candidate).format
        except ValueError as error:
            yield f"candidate: {error}"
        else:
            if named is not self.entrypoint.format:
                yield "entrypoint.format: not what the candidate's name says"
        if ENGINE_OF[self.entrypoint.format] is not self.entrypoint.engine:
            yield f"entrypoint.engine: {self.entrypoint.engine} does not run {self.entrypoint.format}"
        if not self.entrypoint.path.startswith("model/"):
            yield "entrypoint.path: not below model/"


@dataclass(frozen=True)
class Node:
    """What a machine has: architecture, memory, and the versions of the engine packages that are installed."""

    arch: str
    ram_mb: int
    packages: Mapping[str, str]


def misfits(manifest: Manifest, node: Node) -> tuple[str, ...]:
    """Return why a node cannot run the bundle, in words; empty when it can or when no engine is installed."""
    return (*_target_misfits(manifest, node), *_engine_misfits(manifest, node))


def engine_is_installed(manifest: Manifest, node: Node) -> bool:
    """Tell whether the node has any package that runs the bundle."""
    return bool(node.packages.keys() & _accepted(manifest).keys())


def in_range(version: str, version_range: str) -> bool:
    """Tell whether a version's numbers lie in a range such as ``>=2.3,<3``."""
    low, _, high = version_range.partition(",")
    numbers = _numbers(version)
    return numbers >= _numbers(low.removeprefix(">=")) and (not high or numbers < _numbers(high.removeprefix("<")))


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def _accepted(manifest: Manifest) -> dict[str, str]:
    return {manifest.runtime.name: manifest.runtime.version_range, **STAND_INS[manifest.entrypoint.engine]}


def _target_misfits(manifest: Manifest, node: Node) -> Iterator[str]:
    fitting = [target for target in manifest.targets if target.arch == node.arch]
    if not fitting:
        arches = ", ".join(target.arch for target in manifest.targets)
        yield f"it is made for {arches}, this machine is {node.arch}"
    elif all(target.min_ram_mb > node.ram_mb for target in fitting):
        yield f"it needs {min(target.min_ram_mb for target in fitting)} MB of memory, this machine has {node.ram_mb}"


def _engine_misfits(manifest: Manifest, node: Node) -> Iterator[str]:
    accepted = _accepted(manifest)
    found = {name: version for name, version in node.packages.items() if name in accepted}
    if found and not any(in_range(version, accepted[name]) for name, version in found.items()):
        have = ", ".join(f"{name} {version}" for name, version in found.items())
        yield f"it runs on {manifest.runtime.name} {manifest.runtime.version_range}, this machine has {have}"
