import re
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_a_registered_model_asks_for_the_nodes_packages_and_no_others(root: Path) -> None:
    from pipeline.registry.pyfunc_package import NODE_PACKAGES

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[<>=~\[ ]", line)[0] for line in project["dependencies"]}
    assert base - {"packaging"} == set(NODE_PACKAGES)  # the doctor's, who is not in a registered model
