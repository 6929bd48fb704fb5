"""Killed at any change that it makes to the disk, staging leaves a whole release, and the next run finishes it."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from depots import NOW, Signer

from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.commands.build.publishing import publish
from pipeline.core.names import Role
from pipeline.delivery.staging import stage
from pipeline.delivery.transports.memory import MemoryDepot

_CHANGES = {"os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "open", "ctypes.call_function"}
_KILLED = 9


def _writes(flags: object) -> bool:
    return isinstance(flags, int) and bool(flags & os.O_ACCMODE)


def _stage_killed(depot: MemoryDepot, policy: TrustPolicy, to: Path, nth: int) -> bool:
    """Stage in a process that ends at its nth change, as by kill -9; tells whether it came so far."""
    pid = os.fork()
    if pid == 0:
        left = nth

        def die(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in _CHANGES and (event != "open" or _writes(arguments[2])):
                left -= 1
                if left < 0:
                    os._exit(_KILLED)

        sys.addaudithook(die)
        stage(depot, "tiny", policy, to, NOW)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == _KILLED


def _whole(policy: TrustPolicy, place: Path) -> int:
    """Return the seq of the release that is staged, once all of it verifies."""
    channel = load_channel(place, policy, NOW)
    for role in Role:
        verify_bundle(place / role, policy, NOW, channel, role)
    return channel.channel.seq


@pytest.mark.parametrize("step", [pytest.param(23, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_any_change_to_the_disk_one_whole_release_is_in_place(
    tmp_path: Path, signer: Signer, step: int
) -> None:
    depot, policy, before = MemoryDepot(), signer.policy(), tmp_path / "before"
    noise = np.random.default_rng(0).bytes(60_000)
    for seq, model in ((1, noise), (2, noise[:30_000] + b"new" + noise[30_000:])):
        release = signer.release(seq, model)
        publish(depot, release.channel_sig, release.bundles, signer.key, policy)
        if seq == 1:
            stage(depot, "tiny", policy, before, NOW)
    nth, seqs = 0, set[int]()
    to = tmp_path / "node"
    while True:
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(before, to)
        is_killed = _stage_killed(depot, policy, to, nth)
        seqs.add(_whole(policy, to / "tiny"))
        assert stage(depot, "tiny", policy, to, NOW).seq == _whole(policy, to / "tiny") == 2
        if not is_killed:
            break
        nth += step
    assert seqs == {1, 2}
    assert nth > 50
