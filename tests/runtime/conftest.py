import pytest
from sealed import Sealed, sealed


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """A signed primary (onnx), a backup (tflite) and their channel; not to be changed, copy what you tamper with."""
    return sealed(tmp_path_factory.mktemp("pair"))
