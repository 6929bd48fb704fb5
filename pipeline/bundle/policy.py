"""``trust.yaml``: what a node accepts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.channel import DEFAULT_CHANNEL, Expiry
from pipeline.bundle.dsse import PinnedKeys
from pipeline.bundle.public_key import key_hint, read_public_key
from pipeline.core.errors import KeyFileError, TrustPolicyError
from pipeline.core.files import read_bytes
from pipeline.core.names import MODEL_NAME
from pipeline.core.schema import Rule
from pipeline.core.strict_yaml import read_yaml


class KeyUse(StrEnum):
    """What a key may sign."""

    BUNDLE = "bundle"
    CHANNEL = "channel"
    DRILL = "drill"  # attestations that a drill was held, and how it went
    PROVENANCE = "provenance"  # attestations of what a bundle was made from, where and by whom


@dataclass(frozen=True)
class PolicyKey:
    """A pinned key."""

    public_key: Annotated[str, Rule("EC P-256 public key in PEM.")]
    uses: Annotated[tuple[KeyUse, ...], Rule("What it may sign.", min_items=1)]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the key."""
        yield from _key_problems(self.public_key)


@dataclass(frozen=True)
class UpdateKey:
    """A key that seals checkpoints of some models that learn, and nothing else."""

    public_key: Annotated[str, Rule("EC P-256 public key in PEM.")]
    models: Annotated[tuple[Annotated[str, Rule(pattern=MODEL_NAME)], ...], Rule("Whose updates.", min_items=1)]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the key."""
        yield from _key_problems(self.public_key)


def _key_problems(text: str) -> Iterator[str]:
    try:
        read_public_key(text)
    except KeyFileError as error:
        yield f"public_key: {error}"


@dataclass(frozen=True)
class PolicyFile:
    """The file's content; paths are relative to the file."""

    schema_version: Literal[1]
    keys: dict[Annotated[str, Rule(pattern=MODEL_NAME)], PolicyKey]
    models: Annotated[tuple[Annotated[str, Rule(pattern=MODEL_NAME)], ...], Rule("Models to accept.", min_items=1)]
    state_dir: Annotated[str, Rule("Folder for what the node remembers: the floor.")]
    channels: Annotated[str | None, Rule("Folder of channels, <model>/ each; with it every bundle needs one.")] = None
    channel: Annotated[str, Rule("The channel's name to accept.", pattern=MODEL_NAME)] = DEFAULT_CHANNEL
    expired: Annotated[Expiry, Rule("Past a channel's not_after: stop, or go on and say so.")] = Expiry.REFUSE
    updates: dict[Annotated[str, Rule(pattern=MODEL_NAME)], UpdateKey] = field(default_factory=dict)

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if not any(KeyUse.BUNDLE in key.uses for key in self.keys.values()):
            yield "keys: none may sign bundles"
        others = {"".join(key.public_key.split()) for key in self.keys.values()}
        for name, key in self.updates.items():
            if "".join(key.public_key.split()) in others:
                yield f"updates.{name}: stands among keys too; a key for updates has no other use"
            for model in sorted(set(key.models) - set(self.models)):
                yield f"updates.{name}.models: {model} is not among the models that are accepted"


@dataclass(frozen=True)
class TrustPolicy:
    """A policy in force: parsed keys and absolute paths."""

    keys: tuple[tuple[ec.EllipticCurvePublicKey, tuple[KeyUse, ...]], ...]
    models: tuple[str, ...]
    state_dir: Path
    channels: Path | None
    channel: str
    expired: Expiry = Expiry.REFUSE
    updates: tuple[tuple[ec.EllipticCurvePublicKey, tuple[str, ...]], ...] = ()

    def keys_for(self, use: KeyUse) -> PinnedKeys:
        """Return the keys pinned for a use, by their hint."""
        return {key_hint(key): key for key, uses in self.keys if use in uses}

    def update_keys(self, model: str) -> PinnedKeys:
        """Return the keys that may seal checkpoints of a model, by their hint."""
        return {key_hint(key): key for key, models in self.updates if model in models}


def load_policy(path: Path) -> TrustPolicy:
    """Load a trust policy; raises TrustPolicyError with every problem found."""
    text = read_bytes(path, TrustPolicyError, "make one with `hotspare keys new DIR --trust FILE`")
    content = parse_policy(text, str(path))
    here = path.resolve().parent
    return TrustPolicy(
        keys=tuple((read_public_key(key.public_key), key.uses) for key in content.keys.values()),
        models=content.models,
        state_dir=here / content.state_dir,
        channels=None if content.channels is None else here / content.channels,
        channel=content.channel,
        expired=content.expired,
        updates=tuple((read_public_key(key.public_key), key.models) for key in content.updates.values()),
    )


def parse_policy(text: bytes, place: str) -> PolicyFile:
    """Parse a policy's YAML; raises TrustPolicyError with every problem found, each with its path in the file."""
    return read_yaml(PolicyFile, text, place, TrustPolicyError)
