"""Fronts to ask."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
import uvicorn.server
import uvloop
from asking import Client, Served
from certificates import certificate
from fake_service import FakeService, free_socket

from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.tokens import Tokens, TokenUse, add_token, new_token

FAKE = Path(__file__).parents[2] / "fixtures" / "fake_service.py"


class _Hurried:
    """asyncio, for somebody whose waits are a hundredth as long."""

    def __getattr__(self, name):
        return getattr(asyncio, name)

    def sleep(self, seconds):
        return asyncio.sleep(seconds / 100)


@pytest.fixture(autouse=True)
def soon_ended(monkeypatch):
    """uvicorn looks ten times a second whether it is to end, and whether everybody has gone."""
    monkeypatch.setattr(uvicorn.server, "asyncio", _Hurried())


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def loop(request):
    return request.param


@pytest.fixture(params=["plain", "tls"])
def files(request, tmp_path):
    """A folder with a server's certificate and key, or None where the server speaks in clear."""
    if request.param == "plain":
        return None
    certificate(tmp_path, "server", certificate(tmp_path, "authority"))
    return tmp_path


@pytest.fixture
def service():
    return FakeService()


@pytest.fixture
def client(service):
    return Client(service)


@pytest.fixture
def guarded(service):
    """A client of a front with an admin and an inference token."""
    made = {use: new_token(use.value, use) for use in TokenUse}
    client = Client(service, FrontSettings(tokens=Tokens(tokens=tuple(entry for _, entry in made.values()))))
    client.bearer = {use: {"authorization": f"Bearer {token}"} for use, (token, _) in made.items()}
    return client


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    tokens = tmp_path_factory.mktemp("front") / "tokens.json"
    token = add_token(tokens, "tester", TokenUse.ADMIN)
    sock = free_socket()
    command = [sys.executable, str(FAKE), str(sock.fileno()), str(tokens)]
    process = subprocess.Popen(command, pass_fds=[sock.fileno()])
    server = Served(sock.getsockname()[1], process, token)
    assert server.say(b"GET /v2/health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n").startswith(
        b"HTTP/1.1 200"
    )  # it is up
    yield server
    sock.close()
    process.terminate()
    assert process.wait(20) == 0
