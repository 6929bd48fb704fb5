"""A second verifier of what we sign: model-signing's own, in a process of its own."""

import subprocess
import sys
import tempfile
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.public_key import public_pem
from pipeline.bundle.reading import PAYLOAD, SIGNATURE_FILE
from pipeline.core.environment import for_children
from pipeline.core.errors import SignatureInvalid
from pipeline.core.printable import printable

_SECONDS_MAX = 600


def require_second_opinion(bundle: Path, key: ec.EllipticCurvePublicKey) -> None:
    """Have the library's own command verify a bundle; raises SignatureInvalid when it refuses."""
    with tempfile.TemporaryDirectory(prefix="hotspare-key-") as scratch:
        public = Path(scratch) / "signing.pub"
        public.write_text(public_pem(key), encoding="ascii")
        command = [
            *(sys.executable, "-m", "model_signing", "verify", "key", str(bundle / PAYLOAD)),
            *("--signature", str(bundle / SIGNATURE_FILE), "--public_key", str(public), "--no-ignore-git-paths"),
        ]
        done = subprocess.run(
            command, env=for_children(), capture_output=True, text=True, check=False, timeout=_SECONDS_MAX
        )
    if done.returncode:
        last = printable((done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1])
        raise SignatureInvalid(f"{bundle}: model-signing's own verifier refuses what ours accepts: {last}.")
