import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from sealed import NOW, Sealed, sealed

from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.bundle.verify import VerifiedBundle, load_channel, verify_bundle


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """One pair with its channel, never to be changed: tests that change files take ``pair``."""
    return sealed(tmp_path_factory.mktemp("template"))


@pytest.fixture
def pair(template: Sealed, tmp_path: Path) -> Sealed:
    """A private copy of the pair."""
    folder = tmp_path / "pair"
    shutil.copytree(template.folder, folder)
    return Sealed(folder, template.key)


@pytest.fixture
def policy(pair: Sealed) -> TrustPolicy:
    return load_policy(pair.trust)


@pytest.fixture
def verified(pair: Sealed, policy: TrustPolicy) -> Callable[..., VerifiedBundle]:
    """Verify the backup, by default with its channel, at ``NOW``."""

    def verify(with_channel: bool = True, now: datetime = NOW, role: str | None = None) -> VerifiedBundle:
        channel = load_channel(pair.channel, policy, now) if with_channel else None
        return verify_bundle(pair.backup, policy, now, channel, role)

    return verify
