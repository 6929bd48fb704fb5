from collections.abc import Iterator
from pathlib import Path

import pytest
from sealed import Sealed, sealed
from serving import Starter, starting


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """A signed primary (onnx), a backup (tflite) and their channel; not to be changed, copy what you tamper with."""
    return sealed(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def service(pair: Sealed, tmp_path: Path) -> Iterator[Starter]:
    """Start services; when the test is over they are ended, and nothing of them may be left."""
    yield from starting(pair, tmp_path)
