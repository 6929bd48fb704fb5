"""A signing key that stays in a PKCS#11 token: named by a URI, asked to sign, never read.

Sources: RFC 7512 (the URI), PKCS #11 v2.40 §2.3.6 (``CKM_ECDSA`` signs a digest, r and s come as plain numbers).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote_to_bytes

import pkcs11
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.utils import Buffer
from pkcs11.util.ec import encode_ec_public_key

from pipeline.core.environment import SIGNING_KEY, SIGNING_PIN
from pipeline.core.errors import KeyFileError
from pipeline.core.printable import printable

SCHEME = "pkcs11:"
_EXAMPLE = "pkcs11:token=release;object=signing?module-path=/usr/lib/softhsm/libsofthsm2.so"
_PATH, _QUERY = {"token", "object", "id", "type"}, {"module-path"}
_NUMBER_BYTES = 32
_ATTRIBUTE = re.compile(r"([a-z-]+)=((?:[A-Za-z0-9_.~:\[\]@!$'()*+,=/-]|%[0-9A-Fa-f]{2})*)")


@dataclass(frozen=True)
class TokenAddress:
    """Where a key is: the library that speaks to the token, the token's label, the key's label or id."""

    module: Path
    token: str
    label: str | None
    id: bytes | None


def parse_address(text: str) -> TokenAddress:
    """Read a PKCS#11 URI; raises KeyFileError for what is missing, unknown, doubled or not of its form.

    A PIN in it is refused: addresses end up in logs, the PIN has a variable of its own.
    """
    path, _, query = text.removeprefix(SCHEME).partition("?")
    found = {**_attributes(path, ";", _PATH), **_attributes(query, "&", _QUERY)}
    if not text.startswith(SCHEME) or "module-path" not in found or "token" not in found:
        raise _unclear("it needs a token and a module-path")
    if not found.keys() & {"object", "id"}:
        raise _unclear("it names no key, neither by object nor by id")
    if found.get("type", b"private") != b"private":
        raise _unclear("its type is not private")
    module = Path(_word(found["module-path"]))
    if not module.is_absolute():
        raise _unclear("its module-path is not an absolute path")
    label = _word(found["object"]) if "object" in found else None
    return TokenAddress(module, _word(found["token"]), label, found.get("id"))


def _attributes(text: str, separator: str, known: set[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else ():
        match = _ATTRIBUTE.fullmatch(part)
        name = part.partition("=")[0]
        if match is None or name not in known:
            raise _unclear(
                f"{printable(name[:40])!r} is no attribute that it may have, or its value has odd characters"
            )
        if name in found:
            raise _unclear(f"{name} stands twice")
        found[name] = unquote_to_bytes(match[2])
    return found


def _word(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unclear("a value is not UTF-8") from error
    if not text or "\0" in text:
        raise _unclear("a value is empty, or holds a zero byte")
    return text


def _unclear(why: str) -> KeyFileError:
    return KeyFileError(
        f"{SIGNING_KEY} is no address of a key in a token: {why}; write it as in {_EXAMPLE}, the PIN in {SIGNING_PIN}."
    )


class TokenKey(ec.EllipticCurvePrivateKey):
    """A P-256 key whose secret half nobody here has: it signs with ECDSA over SHA-256 and does nothing else."""

    def __init__(self, private: pkcs11.SignMixin, public: ec.EllipticCurvePublicKey, session: pkcs11.Session) -> None:
        self._private = private
        self._public = public
        self._session = session  # the handle of the key lives as long

    @property
    def curve(self) -> ec.EllipticCurve:
        """Return P-256."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Return the bits of the curve."""
        return self._public.curve.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the public half."""
        return self._public

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Have the token sign; raises KeyFileError when it does not."""
        algorithm = getattr(signature_algorithm, "algorithm", None)
        if not isinstance(signature_algorithm, ec.ECDSA) or not isinstance(algorithm, SHA256):
            raise TypeError("a key in a token signs with ECDSA over SHA-256 alone")
        digest = hashlib.sha256(data).digest()
        try:
            numbers = self._private.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
        except pkcs11.PKCS11Error as error:
            raise KeyFileError(f"The token did not sign ({_name(error)}); see whether it is still there.") from error
        r, s = (int.from_bytes(half, "big") for half in (numbers[:_NUMBER_BYTES], numbers[_NUMBER_BYTES:]))
        return encode_dss_signature(r, s)

    def exchange(self, *_: object, **__: object) -> NoReturn:
        """Refuse: this key only signs."""
        raise TypeError("a key in a token only signs")

    def private_numbers(self) -> NoReturn:
        """Refuse: the secret stays in the token."""
        raise TypeError("a key in a token cannot be read")

    def private_bytes(self, *_: object, **__: object) -> NoReturn:
        """Refuse: the secret stays in the token."""
        raise TypeError("a key in a token cannot be read")

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: object) -> "TokenKey":
        return self


def open_token_key(text: str, environ: Mapping[str, str]) -> TokenKey:
    """Open the key that a PKCS#11 URI names, with the PIN of ``HOTSPARE_SIGNING_PIN``.

    Raises KeyFileError when the library, token or key is not there, the PIN is wrong, or it is no EC P-256 key.
    """
    address = parse_address(text)
    pin = environ.get(SIGNING_PIN)
    if not pin:
        raise KeyFileError(f"{SIGNING_KEY} names a key in a token; give the token's PIN in {SIGNING_PIN}.")
    try:
        session = _session(pkcs11.lib(str(address.module)).get_token(token_label=address.token), pin)
        private, public = _halves(session, address)
        key = load_der_public_key(encode_ec_public_key(public)) if isinstance(public, pkcs11.PublicKey) else None
    except (pkcs11.PKCS11Error, ValueError) as error:
        raise KeyFileError(
            f"The key that {SIGNING_KEY} names cannot be used ({_name(error)}); "
            f"check its module, token and label, and {SIGNING_PIN}."
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise KeyFileError(f"The key that {SIGNING_KEY} names is not an EC P-256 key; make one in the token.")
    if not isinstance(private, pkcs11.SignMixin):
        raise KeyFileError(f"The key that {SIGNING_KEY} names may not sign; let it, or make another.")
    return TokenKey(private, key, session)


def _halves(session: pkcs11.Session, address: TokenAddress) -> tuple[pkcs11.Key, pkcs11.Key]:
    private, public = (
        session.get_key(kind, pkcs11.KeyType.EC, address.label, address.id)
        for kind in (pkcs11.ObjectClass.PRIVATE_KEY, pkcs11.ObjectClass.PUBLIC_KEY)
    )
    return private, public


def _session(token: pkcs11.Token, pin: str) -> pkcs11.Session:
    """Open a session; a process logs in once for all of its sessions with a token."""
    try:
        return token.open(user_pin=pin)
    except pkcs11.UserAlreadyLoggedIn:
        return token.open()


def _name(error: Exception) -> str:
    return printable(f"{type(error).__name__}{f': {error}' if str(error) else ''}")
