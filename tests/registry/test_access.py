from pathlib import Path

import pytest

from pipeline.core.errors import Unreachable, UsageError
from pipeline.registry.access import open_registry


@pytest.mark.parametrize("port", ["", ":1"])
def test_a_password_in_the_address_is_never_told(tmp_path: Path, port: str) -> None:
    uri = f"http://user:hunter2@host.invalid{port}"
    with pytest.raises(Unreachable) as caught:
        open_registry(tmp_path, {"MLFLOW_TRACKING_URI": uri})
    assert "hunter2" not in str(caught.value)
    assert f"http://host.invalid{port}" in str(caught.value)


@pytest.mark.parametrize("uri", ["http://user:hunter2", "http://[::1", "http://host:99999"])
def test_what_is_no_address_is_one_sentence(tmp_path: Path, uri: str) -> None:
    with pytest.raises(UsageError, match="is no address") as caught:
        open_registry(tmp_path, {"MLFLOW_TRACKING_URI": uri})
    assert "hunter2" not in str(caught.value)
