"""The server's side of TLS: read from its files at the start, and again when they were renewed."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import KeyFileError


@dataclass(frozen=True)
class Tls:
    """Certificate chain and key, PEM; with ``client_ca`` only clients with a certificate of that authority connect."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Certificate:
    """What a handshake shows and asks for; one under way and open connections keep what they began with."""

    def __init__(self, tls: Tls) -> None:
        """Read the files; raises KeyFileError when they cannot be used."""
        self._tls = tls
        self.context = tls_context(tls)

    def renew(self) -> None:
        """Read the files again; raises KeyFileError, and keeps what it had, when they cannot be used."""
        self.context = tls_context(self._tls)


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Make the server's side of TLS 1.2 or newer; with a client authority, clients must show a certificate of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(tls.certificate, tls.key, password="")  # else OpenSSL would ask the terminal for one
        if tls.client_ca is not None:
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (tls.certificate, tls.key, tls.client_ca) if path is not None)
        raise KeyFileError(
            f"TLS cannot use {files} ({error}); give whole PEM files that belong together, the key without a password."
        ) from error
    return context
