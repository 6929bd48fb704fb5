from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from learned import TIP, Learning, learning_base

from pipeline.online.checkpoints import checkpoint_payload, seal_checkpoint
from pipeline.online.learner import Head, read_head
from pipeline.online.trunk import what_learns


@pytest.fixture(scope="session")
def learning(tmp_path_factory: pytest.TempPathFactory) -> Learning:
    """A base that may learn; never to be changed."""
    return learning_base(tmp_path_factory.mktemp("learning"))


@pytest.fixture(scope="session")
def genuine(learning: Learning) -> dict[str, bytes]:
    """The payload of a genuine checkpoint whose bias learned; never to be changed."""
    base = learning.base()
    head = read_head(base.model_file, what_learns(base.model_file, 0.1, 1e-4, 100.0))
    return checkpoint_payload(base, Head(head.weights, b"\0\0\0\x3f"), TIP)


@pytest.fixture
def sealed_as(learning: Learning, tmp_path: Path) -> Callable[..., Path]:
    """Seal a payload as a checkpoint, by default with the key for updates."""

    def seal(payload: dict[str, bytes], key: ec.EllipticCurvePrivateKey | None = None) -> Path:
        seal_checkpoint(tmp_path / "checkpoint", payload, key or learning.update_key)
        return tmp_path / "checkpoint"

    return seal
