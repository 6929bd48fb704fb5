"""The service by TLS, while its certificate is renewed under clients that go on asking."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from certificates import certificate, client_context
from serving import Clients, Service, Starter, until

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with an authority, a pair of files that is served and one that comes after it."""
    folder = tmp_path / "tls"
    folder.mkdir()
    authority = certificate(folder, "authority")
    for name in ("server", "renewed", "client"):
        certificate(folder, name, authority)
    return folder


@pytest.fixture
def served(service: Starter, folder: Path) -> Service:
    started = service("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key"), admin=True)
    started.tls = client_context(folder)
    started.until_whole()
    return started


def put(folder: Path, name: str) -> None:
    """Put another pair of files where the served one is."""
    for kind in ("pem", "key"):
        shutil.copyfile(folder / f"{name}.{kind}", folder / f"server.{kind}")


def shown(served: Service) -> str:
    """Return the common name that a new handshake shows."""
    assert served.tls is not None
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=30) as sock,
        served.tls.wrap_socket(sock, server_hostname="127.0.0.1") as wrapped,
    ):
        return dict(pair[0] for pair in wrapped.getpeercert()["subject"])["commonName"]


@pytest.mark.parametrize("way", ["signal", "swap"])
def test_a_renewed_certificate_is_taken_in_under_load(served: Service, folder: Path, way: str) -> None:
    assert shown(served) == "server"
    with Clients(served) as clients:
        put(folder, "renewed")
        assert shown(served) == "server"
        if way == "signal":
            os.kill(served.process.pid, signal.SIGHUP)
        else:
            assert "TLS files hold now" in served.admin("swap").json["done"]
        until(lambda: shown(served) == "renewed")
        clients.more()
    clients.assert_nothing_lost()
    assert any("TLS files hold now" in text for text in served.timeline())


@pytest.mark.parametrize("way", ["signal", "swap"])
def test_half_a_renewal_is_refused_in_a_sentence_and_the_old_certificate_serves_on(
    served: Service, folder: Path, way: str
) -> None:
    with Clients(served) as clients:
        shutil.copyfile(folder / "renewed.pem", folder / "server.pem")  # its key is not there yet
        if way == "signal":
            os.kill(served.process.pid, signal.SIGHUP)
        else:
            assert "server.key" in served.admin("swap").json["done"]
        until(lambda: any("old certificate" in text and "server.key" in text for text in served.timeline()))
        assert shown(served) == "server"
        clients.more()
    clients.assert_nothing_lost()
    assert any("old certificate" in one.get("event", "") for one in served.records())


def test_a_server_that_is_started_again_waits_for_a_whole_pair_of_files(served: Service, folder: Path) -> None:
    whole = (folder / "server.key").read_bytes()
    (folder / "server.key").write_bytes(whole[:50])
    os.kill(served.server, signal.SIGKILL)
    until(lambda: any("server.key" in one.get("event", "") for one in served.records()))
    (folder / "server.key").write_bytes(whole)
    served.wait_for_ready(2)
    assert shown(served) == "server"


def test_the_documented_deploy_hook_renews(root: Path, served: Service, folder: Path, tmp_path: Path) -> None:
    text = (root / "docs" / "operations.md").read_text().partition("## Renew the TLS certificate\n")[2]
    hook, renewed = tmp_path / "hook", tmp_path / "renewed"
    hook.write_text(text.partition("```sh\n")[2].partition("```")[0].replace("-o hotspare ", ""))  # nobody here
    hook.chmod(0o755)
    renewed.mkdir()
    for name, kind in (("fullchain.pem", "pem"), ("privkey.pem", "key")):
        shutil.copyfile(folder / f"renewed.{kind}", renewed / name)
    for kind in ("pem", "key"):
        (folder / f"server.{kind}").unlink()
        (folder / f"server.{kind}").symlink_to(f"tls.{kind}")
    (tmp_path / "systemctl").write_text(f'#!/bin/sh\ntest "$*" = "reload hotspare" && kill -HUP {served.process.pid}\n')
    (tmp_path / "systemctl").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    environment = {"CONFIG": str(folder), "RENEWED_LINEAGE": str(renewed), "PATH": path}
    subprocess.run([str(hook)], env=environment, check=True)
    until(lambda: shown(served) == "renewed")


def test_a_client_of_the_old_authority_is_turned_away_after_a_renewal(service: Starter, folder: Path) -> None:
    ca = folder / "clients.pem"
    shutil.copyfile(folder / "authority.pem", ca)
    files = ("--tls-cert", str(folder / "server.pem"), "--tls-key", str(folder / "server.key"))
    served = service(*files, "--tls-client-ca", str(ca))
    served.tls = client_context(folder, "client")
    served.until_whole()
    opened = served.connect()
    opened.request("GET", "/v2/health/live")
    assert opened.getresponse().read() is not None
    certificate(folder, "stranger")
    shutil.copyfile(folder / "stranger.pem", ca)
    os.kill(served.process.pid, signal.SIGHUP)
    until(lambda: "TLS files hold now" in served.log)
    with pytest.raises((ssl.SSLError, OSError)):
        served.ask("GET", "/v2/health/live")
    opened.request("GET", "/v2/health/live")
    assert opened.getresponse().status == 200
    opened.close()
