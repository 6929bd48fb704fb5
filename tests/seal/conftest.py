import pytest
from sealed import Sealed, sealed


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """One pair with its channel, never to be changed."""
    return sealed(tmp_path_factory.mktemp("template"))
