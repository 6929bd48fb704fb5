"""Any server of the Open Inference Protocol v2: ``pytest tests/conformance --oip-url http://H:PORT --oip-model NAME``.

Without an address, the suite starts ``hotspare serve`` on a sealed pair.
"""

import contextlib
import http.client
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pytest
from fake_service import free_socket
from oip import DTYPES, outputs_of
from sealed import sealed

ROWS = 2


def pytest_addoption(parser):
    group = parser.getgroup("Open Inference Protocol")
    group.addoption("--oip-url", help="the server to ask; default: a server of its own")
    group.addoption("--oip-model", help="the model to ask; default: the tiny one of the tests")


@dataclass
class Reply:
    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error sentence of a refusal; fails unless the answer is one as the protocol has it."""
        assert 400 <= self.status < 500, (self.status, self.body)
        assert isinstance(self.json["error"], str) and self.json["error"]
        return self.json["error"]


@dataclass
class Server:
    address: str
    model: str

    def ask(self, method, path, body=None, **headers):
        with contextlib.closing(http.client.HTTPConnection(self.address, timeout=20)) as connection:
            content = json.dumps(body) if isinstance(body, (dict, list)) else body
            connection.request(method, path, content, {key.replace("_", "-"): text for key, text in headers.items()})
            answer = connection.getresponse()
            return Reply(answer.status, {key.lower(): text for key, text in answer.getheaders()}, answer.read())

    def infer(self, body, path=None, **headers):
        return self.ask("POST", path or f"/v2/models/{self.model}/infer", body, **headers)


def await_ready(address):
    """Ask until the server answers that it is ready; a server that never does fails the suite."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if Server(address, "").ask("GET", "/v2/health/ready").status == 200:
                return
        time.sleep(0.05)  # between questions to a process of somebody else
    pytest.fail(f"{address} did not become ready")


@pytest.fixture(scope="session")
def server(pytestconfig, tmp_path_factory):
    url = pytestconfig.getoption("--oip-url", default=None)
    if url is not None:
        address = urlsplit(url).netloc
        await_ready(address)
        yield Server(address, pytestconfig.getoption("--oip-model"))
        return
    sock = free_socket()
    process = subprocess.Popen(own_command(tmp_path_factory.mktemp("oip"), sock.fileno()), pass_fds=[sock.fileno()])
    address = f"127.0.0.1:{sock.getsockname()[1]}"
    sock.close()
    await_ready(address)
    yield Server(address, "tiny")
    process.terminate()
    assert process.wait(20) == 0


def own_command(folder, fd):
    """Return what serves a sealed pair on a socket handed over as systemd does it."""
    made = sealed(folder)
    places = {"primary": made.primary, "standby": made.backup, "trust": made.trust, "channel": made.channel}
    options = [text for name, path in places.items() for text in (f"--{name}", str(path))]
    script = f'exec 3<&{fd}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" -m pipeline.cli serve "$@"'
    return ["bash", "-c", script, sys.executable, *options]


@pytest.fixture(scope="session")
def metadata(server):
    return server.ask("GET", f"/v2/models/{server.model}").json


@pytest.fixture(scope="session")
def arrays(metadata):
    """Inputs that fit the model's metadata: free axes get ``ROWS``."""
    chance = np.random.default_rng(11)
    made = {}
    for tensor in metadata["inputs"]:
        shape = [ROWS if size == -1 else size for size in tensor["shape"]]
        made[tensor["name"]] = chance.integers(0, 2, shape).astype(DTYPES[tensor["datatype"]])
    return made


@pytest.fixture(scope="session")
def question(metadata, arrays):
    """The inputs as a JSON request, flat."""
    datatypes = {tensor["name"]: tensor["datatype"] for tensor in metadata["inputs"]}
    return {
        "inputs": [
            {"name": name, "datatype": datatypes[name], "shape": list(array.shape), "data": array.ravel().tolist()}
            for name, array in arrays.items()
        ]
    }


@pytest.fixture(scope="session")
def expected(server, question):
    """What the model says, by the simplest way to ask."""
    reply = server.infer(question)
    assert reply.status == 200, reply.body
    return outputs_of(reply.json)
