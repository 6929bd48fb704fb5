"""A shortened log and the checkpoint that it starts from: whole after a kill anywhere, and genuine when it is lent."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from learned import Learning

from pipeline.bundle.learning import read_learning
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.errors import Malformed, RolledBack, Untrusted
from pipeline.core.tensors import decode_npz, encode_npz
from pipeline.online.checkpoints import checkpoint_payload, signature_file
from pipeline.online.learner import Head, admit, replay
from pipeline.online.records import Tip
from pipeline.online.starts import Start, borrow, heads_at, keep_start, lend, make_start, read_start, settle
from pipeline.online.update_log import UpdateLog

UPDATES = 12
CALLS = ("open", "pwrite", "fsync", "fdatasync", "ftruncate", "replace", "rename", "mkdir", "unlink", "rmdir", "close")
SLOWLY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Killed(BaseException):
    """The process was killed here."""


class Disaster:
    """Lets ``left`` changes of the disk happen, half of the next one where it is a write, and no more."""

    def __init__(self, left: int) -> None:
        self._left = left
        self._real = {name: getattr(os, name) for name in CALLS}
        self.opened: list[int] = []

    def instead_of(self, name: str) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            self._left -= 1
            if self._left < 0:
                self._half(name, args)
                raise Killed
            result = self._real[name](*args, **kwargs)
            if name == "open":
                self.opened.append(result)
            return result

        return call

    def _half(self, name: str, args: tuple) -> None:
        if self._left == -1 and name == "pwrite":
            self._real[name](args[0], args[1][: len(args[1]) // 2], args[2])
        if name == "close":
            self._real[name](*args)


@contextmanager
def killed_at(changes: int) -> Iterator[None]:
    """Kill the block after so many changes of the disk; files that it opened are closed, as a dead process's are."""
    disaster = Disaster(changes)
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        for name in CALLS:
            patch.setattr(os, name, disaster.instead_of(name))
        yield
    for descriptor in set(disaster.opened):
        with suppress(OSError):  # closed by the file object that had it
            os.close(descriptor)


@pytest.fixture(scope="module")
def base(learning: Learning) -> VerifiedBundle:
    return learning.base()


@pytest.fixture(scope="module")
def policy(learning: Learning) -> TrustPolicy:
    return learning.policy()


@pytest.fixture(scope="module")
def payloads(base: VerifiedBundle) -> list[bytes]:
    what = read_learning(base.files)
    rows = np.random.default_rng(5).normal(size=(UPDATES, what.weights.count)).astype(np.float32)
    return [admit(seq.to_bytes(16, "big"), float(row[0] > 0), row, what) for seq, row in enumerate(rows, 1)]


class Disk:
    """One member's log and start."""

    def __init__(self, folder: Path, learning: Learning, base: VerifiedBundle, policy: TrustPolicy) -> None:
        self.folder, self.learning, self.base, self.policy = folder, learning, base, policy
        self.log: UpdateLog | None = None
        self.opened()

    def opened(self) -> "Disk":
        """Open, or open again what a killed member left."""
        if self.log is not None:
            with suppress(OSError):  # killed while the file was exchanged
                self.log.close()
        self.start = read_start(self.folder / "start", self.base, self.policy)
        self.log = UpdateLog(self.folder / "updates.log", self.base.bundle_id)
        settle(self.log, self.start, self.folder / "start")
        return self

    def sealed(self, upto: int) -> tuple[dict[str, bytes], bytes]:
        """Return the payload and signature of a checkpoint of a record."""
        payload = checkpoint_payload(self.base, self.head(upto), self.log.tip_at(upto))
        return payload, signature_file(payload, self.learning.update_key)

    def shorten(self, upto: int, sealed: tuple[dict[str, bytes], bytes]) -> None:
        self.start = make_start(self.folder / "start", *sealed, self.base, self.policy)
        self.log.shorten(upto)

    def install(self, start: Start) -> None:
        keep_start(self.folder / "start", start)
        self.start = start
        self.log.begin(start.tip)

    def head(self, seq: int | None = None) -> Head:
        """Return the state after a record, by default the last one."""
        records = self.log.records(self.log.start.seq + 1)
        seq = self.log.tip.seq if seq is None else seq
        return heads_at(self.start, records, [seq], read_learning(self.base.files))[seq]


@pytest.fixture
def disk(tmp_path: Path, learning: Learning, base: VerifiedBundle, policy: TrustPolicy) -> Callable[[str], Disk]:
    """Make members' disks, each new."""
    made: list[Disk] = []

    def make(name: str = "a") -> Disk:
        made.append(Disk(tmp_path / f"{name}{len(made)}", learning, base, policy))
        return made[-1]

    return make


def expected(base: VerifiedBundle, payloads: list[bytes]) -> Head:
    what = read_learning(base.files)
    return replay(read_start(Path("none"), base, None).head, payloads, what)  # type: ignore[arg-type]


@SLOWLY
@given(st.integers(0, 60), st.integers(0, 2), st.integers(1, UPDATES - 1))
def test_a_kill_anywhere_while_the_log_is_shortened_loses_nothing(
    disk: Callable[..., Disk], base: VerifiedBundle, payloads: list[bytes], calls: int, before: int, upto: int
) -> None:
    one = disk()
    one.log.append(2, payloads)
    if 0 < before < upto:
        one.shorten(before, one.sealed(before))
    sealed = one.sealed(upto)
    with killed_at(calls):
        one.shorten(upto, sealed)
    one.opened()
    assert one.log.start.seq in (0, before, upto)
    assert one.log.start == one.start.tip
    assert one.log.tip.seq == UPDATES
    assert one.head() == expected(base, payloads)
    one.shorten(UPDATES, one.sealed(UPDATES))  # it goes on
    one.log.append(4, payloads[:1])
    assert one.opened().head() == expected(base, [*payloads, payloads[0]])
    one.log.close()


@SLOWLY
@given(st.integers(0, 60), st.integers(0, 9), st.integers(0, 4))
def test_a_kill_anywhere_while_a_lent_start_is_installed_leaves_the_old_log_or_the_new_one(
    disk: Callable[..., Disk], base: VerifiedBundle, payloads: list[bytes], calls: int, own: int, first: int
) -> None:
    leader, follower = disk("leader"), disk("follower")
    leader.log.append(2, payloads)
    leader.shorten(10, leader.sealed(10))
    follower.log.append(1, payloads[:own])
    if 0 < first < own:
        follower.shorten(first, follower.sealed(first))
    start = borrow(lend(leader.start), base, follower.policy)
    with killed_at(calls):
        follower.install(start)
    follower.opened()
    assert follower.log.start == follower.start.tip
    if follower.log.start != leader.log.start:
        assert follower.log.tip.seq == own
        assert follower.head() == expected(base, payloads[:own])
        follower.install(start)
    follower.log.append_checked(follower.log.check(leader.log.encoded(11, UPDATES)))
    assert follower.log.tip == leader.log.tip
    assert follower.opened().head() == leader.head() == expected(base, payloads)
    leader.log.close()
    follower.log.close()


@pytest.fixture
def shortened(disk: Callable[..., Disk], payloads: list[bytes]) -> Iterator[Disk]:
    one = disk()
    one.log.append(2, payloads)
    one.shorten(10, one.sealed(10))
    yield one
    one.log.close()


def test_a_start_older_than_its_log_is_refused(shortened: Disk) -> None:
    older = Start(Tip(2, 9, bytes(32)), shortened.start.head)
    with pytest.raises(RolledBack, match="remove the member's whole folder"):
        settle(shortened.log, older, shortened.folder / "start")


def test_a_log_whose_start_is_gone_is_refused(shortened: Disk) -> None:
    base_start = read_start(shortened.folder / "nowhere", shortened.base, shortened.policy)
    with pytest.raises(RolledBack):
        settle(shortened.log, base_start, shortened.folder / "start")


@pytest.mark.parametrize("part", ["weights", "bias", "checkpoint.json", "golden/outputs.npz", "bundle.sig"])
def test_nothing_of_what_is_lent_may_be_changed_on_its_way(shortened: Disk, part: str) -> None:
    parts = decode_npz(lend(shortened.start), "it", Malformed)
    flipped = parts[part].copy()
    flipped[len(flipped) // 2] ^= 1
    with pytest.raises(Untrusted):
        borrow(encode_npz({**parts, part: flipped}), shortened.base, shortened.policy)


def test_what_is_lent_has_exactly_its_parts(shortened: Disk) -> None:
    parts = decode_npz(lend(shortened.start), "it", Malformed)
    for odd in ({**parts, "more": parts["bias"]}, {name: parts[name] for name in parts if name != "bias"}):
        with pytest.raises(Malformed, match="agreed"):
            borrow(encode_npz(odd), shortened.base, shortened.policy)


def test_the_base_is_not_lent(disk: Callable[..., Disk]) -> None:
    with pytest.raises(Malformed, match="nothing to lend"):
        lend(disk().start)
