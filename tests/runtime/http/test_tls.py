"""TLS: old versions and clients without a certificate of the authority are turned away."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import time

import pytest
from certificates import certificate, client_context
from cryptography.hazmat.primitives import serialization
from fronts import serving, tls_of

from pipeline.core.errors import KeyFileError
from pipeline.runtime.http.certificate import Certificate, Tls, tls_context

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@pytest.fixture
def folder(tmp_path):
    authority = certificate(tmp_path, "authority")
    for name in ("server", "client"):
        certificate(tmp_path, name, authority)
    certificate(tmp_path, "stranger")
    return tmp_path


async def ask_at(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(REQUEST)
    answer = await reader.read()
    writer.close()
    return answer


async def ask(tls, context):
    async with serving(tls) as port:
        return await ask_at(port, context)


def test_a_client_that_knows_the_authority_is_answered(folder, loop):
    assert loop(ask(tls_of(folder), client_context(folder))).startswith(b"HTTP/1.1 200")


def test_mutual_tls_admits_only_clients_of_the_authority(folder):
    mutual = tls_of(folder, folder / "authority.pem")
    assert asyncio.run(ask(mutual, client_context(folder, "client"))).startswith(b"HTTP/1.1 200")
    for name in (None, "stranger"):
        answer = b""  # in TLS 1.3 a client learns of its refusal only when it reads
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            answer = asyncio.run(ask(mutual, client_context(folder, name)))
        assert answer == b""


def test_files_that_do_not_belong_together_are_refused_by_name(folder):
    assert tls_context(tls_of(folder)).minimum_version is ssl.TLSVersion.TLSv1_2
    wrong = [Tls(folder / "server.pem", folder / "client.key"), Tls(folder / "none.pem", folder / "server.key")]
    wrong.append(Tls(folder / "server.pem", folder / "server.key", folder / "server.key"))
    for one in wrong:
        with pytest.raises(KeyFileError, match=r"(server|client)\.key"):
            tls_context(one)


def test_a_client_that_never_shakes_hands_has_a_place_and_loses_it(folder, loop):
    async def has_a_place():
        async with serving(tls_of(folder), connections_max=1, head_s_max=60) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(OSError, match=r".*"):  # a reset, or an end in the middle of the handshake
                await ask_at(port, client_context(folder))
            writer.close()

    async def loses_it():
        async with serving(tls_of(folder), connections_max=1, head_s_max=0.5) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 30) == b""
            writer.close()
            return await answered_at_last(port, client_context(folder))

    loop(has_a_place())
    assert loop(loses_it()).startswith(b"HTTP/1.1 200")


async def answered_at_last(port, context):
    """Ask until there is an answer: half a second may be too short for a handshake on a busy machine."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                if answer := await ask_at(port, context):
                    return answer


def test_a_request_in_the_same_breath_as_the_handshake_is_answered(folder, loop):
    def say(port):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(folder).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
            client.write(REQUEST)
            sock.sendall(outgoing.read())
            while True:
                try:
                    return client.read(100)
                except ssl.SSLWantReadError:
                    incoming.write(sock.recv(65536))

    async def run():
        async with serving(tls_of(folder)) as port:
            return await asyncio.to_thread(say, port)

    assert loop(run()).startswith(b"HTTP/1.1 200")


def test_an_idle_client_that_is_asleep_does_not_hold_up_the_end(folder, loop):
    def asleep(port):
        sock = client_context(folder).wrap_socket(
            socket.create_connection(("127.0.0.1", port), timeout=30), server_hostname="127.0.0.1"
        )
        sock.sendall(REQUEST.replace(b"connection: close\r\n", b""))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        return sock

    async def run():
        async with serving(tls_of(folder)) as port:
            sock = await asyncio.to_thread(asleep, port)
            began_s = time.monotonic()
        took_s = time.monotonic() - began_s
        sock.close()
        return took_s

    assert loop(run()) < 10  # asyncio waits for half a minute for the goodbye


def test_a_renewed_certificate_is_shown_to_new_clients_and_what_cannot_be_used_is_not(folder):
    certificate(folder, "renewed", certificate(folder, "authority"))
    shown = Certificate(tls_of(folder))
    first = shown.context
    whole = (folder / "renewed.pem").read_bytes()
    for broken in (whole, whole[:-40], whole + whole[:90], b""):
        (folder / "server.pem").write_bytes(broken)  # the old key lies beside it
        with pytest.raises(KeyFileError, match=r"server\.key .*belong together"):
            shown.renew()
        assert shown.context is first
    (folder / "server.pem").write_bytes(whole)
    shutil.copyfile(folder / "renewed.key", folder / "server.key")
    shown.renew()
    assert shown.context is not first


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(folder):
    key = serialization.load_pem_private_key((folder / "server.key").read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    (folder / "server.key").write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    with pytest.raises(KeyFileError, match="without a password"):
        tls_context(tls_of(folder))
