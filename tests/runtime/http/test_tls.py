"""TLS: old versions and clients without a certificate of the authority are turned away."""

import asyncio
import contextlib
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fake_service import FakeService, free_socket

from pipeline.core.errors import KeyFileError
from pipeline.runtime.http.app import build_app
from pipeline.runtime.http.server import serve_app, tls_context
from pipeline.runtime.http.settings import FrontSettings, Limits, Tls

REQUEST = b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


def certificate(folder, name, issuer=None):
    """Write ``name``.pem and ``name``.key; self-signed without an issuer. Returns (name, key)."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0] if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    (folder / f"{name}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(key.private_bytes(*form))
    return subject, key


@pytest.fixture
def folder(tmp_path):
    authority = certificate(tmp_path, "authority")
    for name in ("server", "client"):
        certificate(tmp_path, name, authority)
    certificate(tmp_path, "stranger")
    return tmp_path


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def loop(request):
    return request.param


def client_context(folder, name=None):
    context = ssl.create_default_context(cafile=folder / "authority.pem")
    if name is not None:
        context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    return context


@contextlib.asynccontextmanager
async def serving(tls, **limits):
    sock, front = free_socket(), FrontSettings(tls=tls, limits=Limits(**limits))

    async def drain():
        pass

    running = asyncio.create_task(serve_app(build_app(FakeService(), front), [sock], front, drain))
    try:
        yield sock.getsockname()[1]
    finally:
        running.cancel()
        await asyncio.wait([running])


async def ask_at(port, context):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(REQUEST)
    answer = await reader.read()
    writer.close()
    return answer


async def ask(tls, context):
    async with serving(tls) as port:
        return await ask_at(port, context)


def tls(folder, client_ca=None):
    return Tls(folder / "server.pem", folder / "server.key", client_ca)


def test_a_client_that_knows_the_authority_is_answered(folder, loop):
    assert loop(ask(tls(folder), client_context(folder))).startswith(b"HTTP/1.1 200")


def test_mutual_tls_admits_only_clients_of_the_authority(folder):
    mutual = tls(folder, folder / "authority.pem")
    assert asyncio.run(ask(mutual, client_context(folder, "client"))).startswith(b"HTTP/1.1 200")
    for name in (None, "stranger"):
        answer = b""  # in TLS 1.3 a client learns of its refusal only when it reads
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            answer = asyncio.run(ask(mutual, client_context(folder, name)))
        assert answer == b""


def test_files_that_do_not_belong_together_are_refused_by_name(folder):
    assert tls_context(tls(folder)).minimum_version is ssl.TLSVersion.TLSv1_2
    wrong = [Tls(folder / "server.pem", folder / "client.key"), Tls(folder / "none.pem", folder / "server.key")]
    wrong.append(Tls(folder / "server.pem", folder / "server.key", folder / "server.key"))
    for one in wrong:
        with pytest.raises(KeyFileError, match=r"(server|client)\.key"):
            tls_context(one)


def test_a_client_that_never_shakes_hands_has_a_place_and_loses_it(folder, loop):
    async def run():
        async with serving(tls(folder), connections_max=1, head_s_max=0.5) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with pytest.raises(OSError, match=r".*"):  # a reset, or an end in the middle of the handshake
                await ask_at(port, client_context(folder))
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
            return await ask_at(port, client_context(folder))

    assert loop(run()).startswith(b"HTTP/1.1 200")


def test_a_request_in_the_same_breath_as_the_handshake_is_answered(folder, loop):
    def say(port):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context(folder).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
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
        async with serving(tls(folder)) as port:
            return await asyncio.to_thread(say, port)

    assert loop(run()).startswith(b"HTTP/1.1 200")


def test_an_idle_client_that_is_asleep_does_not_hold_up_the_end(folder, loop):
    def asleep(port):
        sock = client_context(folder).wrap_socket(
            socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="127.0.0.1"
        )
        sock.sendall(REQUEST.replace(b"connection: close\r\n", b""))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        return sock

    async def run():
        async with serving(tls(folder)) as port:
            sock = await asyncio.to_thread(asleep, port)
            began_s = time.monotonic()
        took_s = time.monotonic() - began_s
        sock.close()
        return took_s

    assert loop(run()) < 10  # asyncio waits for half a minute for the goodbye
