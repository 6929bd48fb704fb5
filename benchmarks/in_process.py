"""Our HTTP front over a session in its own process: what isolation costs is the difference to this.

``python benchmarks/in_process.py BUNDLE --trust T.yaml --port P``. No workers, no failover, nothing that watches.
"""

import argparse
import socket
from collections.abc import Mapping
from pathlib import Path

import uvloop

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core.clock import utc_now
from pipeline.core.errors import Refusal
from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime.http.app import build_app
from pipeline.runtime.http.server import serve_app
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.loading import load_ready
from pipeline.runtime.members import Seat
from pipeline.runtime.service import Answer, NotAnswered, PairStatus, ServedModel


class InProcess:
    """The front's service, answered at once by a session."""

    def __init__(self, bundle: VerifiedBundle) -> None:
        self._bundle = bundle
        self._session = load_ready(bundle)
        self._served = (ServedModel(bundle.model, bundle.bundle_id[:12], "in-process", bundle.io, True),)

    def models(self) -> tuple[ServedModel, ...]:
        """Return the one model."""
        return self._served

    async def infer(
        self,
        model: str,  # noqa: ARG002 - the port's signature
        version: str | None,  # noqa: ARG002
        inputs: Mapping[str, Array],
        deadline_ms: float,  # noqa: ARG002
    ) -> Answer | NotAnswered:
        """Answer where the request is read."""
        outputs = self._session.run(inputs)
        return Answer(outputs, self._bundle.bundle_id, self._bundle.candidate, Role.PRIMARY, 1, hedged=False)

    def status(self) -> tuple[PairStatus, ...]:
        """Return nothing: there is no pair."""
        return ()

    async def switch(self, model: str, to: Role) -> str:
        """Refuse."""
        raise Refusal(f"There is no {to} of {model} here.")

    async def hold(self, model: str, seat: Seat) -> str:
        """Refuse."""
        raise Refusal(f"There is no {seat} of {model} here.")

    async def release(self, model: str, seat: Seat) -> str:
        """Refuse."""
        raise Refusal(f"There is no {seat} of {model} here.")

    async def swap(self, model: str) -> str:
        """Refuse."""
        raise Refusal(f"{model} cannot be swapped here.")

    def draining(self) -> bool:
        """Tell that it never drains."""
        return False


async def serve(bundle: VerifiedBundle, port: int) -> None:
    """Serve until told to stop."""
    front = FrontSettings()

    async def nothing() -> None:
        """End without ado."""

    listening = socket.create_server(("127.0.0.1", port), backlog=1024)
    await serve_app(build_app(InProcess(bundle), front), (listening,), front, nothing)


def main() -> None:
    """Serve one bundle."""
    parser = argparse.ArgumentParser()
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trust", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    args = parser.parse_args()
    uvloop.run(serve(verify_bundle(args.bundle, load_policy(args.trust), utc_now()), args.port))


if __name__ == "__main__":
    main()
