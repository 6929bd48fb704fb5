"""What docs/serving.md tells readers to type does what it says."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from fake_service import free_socket

from pipeline.runtime.http.tokens import TokenUse, add_token

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def text(root):
    return (root / "docs" / "serving.md").read_text()


@pytest.fixture(scope="module")
def documented(root, tmp_path_factory):
    """A server of a made-up model called credit; yields its port and an admin token."""
    tokens = tmp_path_factory.mktemp("docs") / "tokens.json"
    token = add_token(tokens, "ops", TokenUse.ADMIN)
    sock = free_socket()
    fake = root / "tests" / "fixtures" / "fake_service.py"
    process = subprocess.Popen(
        [sys.executable, str(fake), str(sock.fileno()), str(tokens), "credit"], pass_fds=[sock.fileno()]
    )
    yield sock.getsockname()[1], token
    sock.close()
    process.terminate()
    assert process.wait(20) == 0


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_shell_examples_work(text, documented, tmp_path):
    port, token = documented
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    scripts = blocks(text, "bash")
    assert len(scripts) == 3
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"  # noqa: PTH120 - a search path
    for script in scripts:
        here = script.replace("localhost:8080", f"localhost:{port}")
        environment = {**os.environ, "TOKEN": token, "PATH": path}
        done = subprocess.run(["bash", "-ec", here], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, (script, done.stdout, done.stderr)


def test_the_python_example_works(text, documented):
    (script,) = blocks(text, "python")
    script = script.replace("localhost:8080", f"localhost:{documented[0]}")
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_units_are_what_systemd_reads(text, tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for unit in blocks(text, "ini"):
        name = re.match(r"# /etc/systemd/system/(\S+)", unit)[1]
        (tmp_path / name).write_text(
            unit.replace("/opt/hotspare/bin/hotspare", "/bin/true").replace("User=hotspare\n", "")
        )
    found = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "hotspare.service")],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert not [line for line in found.stderr.splitlines() if "hotspare" in line]


def test_every_endpoint_that_is_served_is_documented(text, client):
    for path in client.ask("GET", "/openapi.json").json["paths"]:
        last = path.rsplit("/", 1)[-1]
        assert last in ("", "{model}", "{version}") or last in text
