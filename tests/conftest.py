import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def fixture_models() -> Path:
    return ROOT / "tests" / "fixtures" / "models"


# Times differ too much between machines for a deadline, and forty examples a run of each test add up over the runs.
# CI repeats the same examples, so that a change is judged by itself; every local run draws new ones.
settings.register_profile("hotspare", max_examples=40, deadline=None, derandomize="CI" in os.environ)
settings.load_profile("hotspare")


@pytest.fixture(scope="session", autouse=True)
def _power_stays_on() -> Iterator[None]:
    """Wait for no disk: a killed process loses nothing that it wrote, and no test takes the power away."""

    def is_open(file: object) -> None:
        os.fstat(file if isinstance(file, int) else file.fileno())  # type: ignore[attr-defined]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", is_open)
        patch.setattr(os, "fdatasync", is_open)
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported and collected stays until the end: the collector need not walk it while it grows, nor again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    # A project's own tracking server or signing key must never be touched by a test.
    for name in ("MLFLOW_TRACKING_URI", "HOTSPARE_SIGNING_KEY"):
        os.environ.pop(name, None)
