"""Attacks on a running service: bundles exchanged under it, short deadlines, secrets, channels that end."""

import os
import signal

import pytest
from sealed import tiny_payload
from serving import Clients, Starter

from pipeline.core.names import Format, Role
from pipeline.seal.signing import seal_bundle

pytestmark = pytest.mark.slow


def test_a_bundle_exchanged_for_another_signed_one_is_not_loaded_at_a_restart(service: Starter) -> None:
    served = service(admin=True)
    before = served.until_whole()["version"]
    beside = served.files.folder / "beside"
    seal_bundle(beside, {**tiny_payload(Format.ONNX), "NOTES.md": b"Another one."}, served.files.key)
    with Clients(served) as clients:
        served.files.primary.rename(served.files.folder / "old")
        beside.rename(served.files.primary)
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda pair: pair["counters"]["restarts"] >= 2)
        clients.more()
        assert served.status()["serving"] == "backup"
        assert any("hotspare swap" in text for one in served.diagnoses() for text in one["evidence"])
        assert served.admin("swap").status == 200
        after = served.until_whole()["version"]
    clients.assert_nothing_lost()
    assert after != before
