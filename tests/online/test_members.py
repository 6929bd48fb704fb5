"""Two real members in one event loop: the log is shortened while updates come, and a new member is lent its start."""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from learned import Learning
from sealed import tiny_rows

from pipeline.bundle.learning import read_learning
from pipeline.core.errors import Malformed, Unreachable
from pipeline.core.tensors import encode_npz
from pipeline.online import links, shipping
from pipeline.online.leading_nouns import Greet, Terms
from pipeline.online.learner import Head, admit
from pipeline.online.member import Member
from pipeline.online.place import LOG, SOCKET, START, Keeping, Place
from pipeline.online.records import Record, encode, genesis
from pipeline.online.sending import Acknowledged, Sender, status
from pipeline.online.update_log import UpdateLog, read_log
from pipeline.online.wire import Frame, Kind, OfferHead, StatusHead, pack

ROWS = tiny_rows(400)["features"]
WINDOW = 40
pytestmark = pytest.mark.slow
PATIENCE_S = 60
SLOW_LEASES = Terms(0, 3.0, 5.0)  # nobody takes over here, however busy the machine is


@pytest.fixture
def folders() -> Iterator[list[Path]]:
    """Two folders whose sockets' paths are short enough for the system."""
    with tempfile.TemporaryDirectory(prefix="members-") as name:
        made = [Path(name) / seat for seat in "ab"]
        for folder in made:
            folder.mkdir()
        yield made


class Pair:
    """Both members as tasks."""

    def __init__(self, learning: Learning, folders: list[Path]) -> None:
        self.learning, self.folders = learning, folders
        self.members: dict[int, Member] = {}
        self._parsing = threading.Lock()
        self._tasks: dict[int, asyncio.Task] = {}
        self.acknowledged: dict[str, Acknowledged] = {}
        self.sender: Sender
        self._use_new_threads()

    def _use_new_threads(self) -> None:
        self._threads = ThreadPoolExecutor()
        asyncio.get_running_loop().set_default_executor(self._threads)

    def start(self, seat: int) -> None:
        place = Place(seat, self.folders[seat], self.folders[1 - seat])
        base, policy = self.learning.base(), self.learning.policy()
        member = Member(place, SLOW_LEASES, base, policy, self.learning.update_key, Keeping(20, WINDOW))
        member._replica.parsing = self._parsing  # it guards a process; here two members are in one
        self.members[seat] = member
        self._tasks[seat] = asyncio.create_task(member.run())

    async def stop(self, seat: int) -> None:
        self._tasks[seat].cancel()
        with suppress(asyncio.CancelledError):
            await self._tasks[seat]

    async def restart(self) -> None:
        """Go on, once both are stopped, with new members on copies of their disks: no file is shared with the old."""
        self._threads.shutdown()  # as with a process, nothing of a stopped member writes on
        self._use_new_threads()
        for seat in (0, 1):
            after = self.folders[seat].with_name(f"again-{seat}")
            shutil.copytree(self.folders[seat], after, ignore=shutil.ignore_patterns("*.sock", ".*"))
            self.folders[seat] = after
        for seat in (0, 1):
            self.start(seat)

    async def offer(self, numbers: range) -> None:
        """Send updates and wait until all are acknowledged."""
        async with asyncio.timeout(PATIENCE_S):
            for number in numbers:
                row = ROWS[number % len(ROWS)][None]
                self.sender.offer(f"{number:032x}", float(row[0, 0] > 0), {"features": row})
                while self.sender.pending > 8:
                    await asyncio.sleep(0.005)
            await self.sender.idle.wait()

    async def both(self, wanted: Callable[[StatusHead], bool]) -> list[StatusHead]:
        """Wait until both are as wanted, and hold the same log."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                seen = [await told(folder) for folder in self.folders]
                if all(map(wanted, seen)) and seen[0].last == seen[1].last and all(one.joined for one in seen):
                    return seen
                await asyncio.sleep(0.02)


@asynccontextmanager
async def started(learning: Learning, folders: list[Path]) -> AsyncIterator[Pair]:
    pair = Pair(learning, folders)
    for seat in (0, 1):
        pair.start(seat)
    async with sending(pair):
        yield pair


@asynccontextmanager
async def sending(pair: Pair) -> AsyncIterator[None]:
    pair.sender = Sender(pair.folders, lambda told: pair.acknowledged.__setitem__(told.id, told))
    task = asyncio.create_task(pair.sender.run())
    try:
        yield
    finally:
        task.cancel()
        for seat in (0, 1):
            await pair.stop(seat)


async def grown(pair: Pair) -> int:
    """Offer updates until both have dropped some; return how many were offered."""
    offered = 0
    while offered < 2000:
        await pair.offer(range(offered, offered + 50))
        offered += 50
        if all([(await told(folder)).start for folder in pair.folders]):
            return offered
    raise AssertionError("nothing was dropped")


def test_the_log_is_shortened_under_updates_and_knows_those_of_its_window(
    learning: Learning, folders: list[Path]
) -> None:
    async def play() -> None:
        async with started(learning, folders) as pair:
            offered = await grown(pair)
            seen = await pair.both(lambda one: one.start >= WINDOW and one.last == offered)
            assert seen[0].head_sha256 == seen[1].head_sha256
            kept = read_log(folders[0] / LOG, learning.base().bundle_id)
            assert WINDOW <= len(kept) == offered - seen[0].start
            first = dict(pair.acknowledged)
            again = range(offered - WINDOW, offered)
            await pair.offer(again)
            assert [pair.acknowledged[f"{one:032x}"].seq for one in again] == [
                first[f"{one:032x}"].seq for one in again
            ]
            assert (await status(folders[0])).last == offered

    asyncio.run(play())


def test_after_a_restart_updates_before_the_checkpoint_are_known_too(learning: Learning, folders: list[Path]) -> None:
    async def play() -> None:
        async with started(learning, folders) as pair:
            offered = await grown(pair)
            seen = await pair.both(lambda one: one.start > 0 and one.last == offered)
            first = {identity: told.seq for identity, told in pair.acknowledged.items()}
        await pair.restart()
        async with sending(pair):
            again = range(offered - WINDOW, offered)
            await pair.offer(again)
            assert all(pair.acknowledged[f"{one:032x}"].seq == first[f"{one:032x}"] for one in again)
            after = await pair.both(lambda one: one.last == offered)
            assert {one.head_sha256 for one in after} == {seen[0].head_sha256}
            assert min(one.start for one in after) >= WINDOW

    asyncio.run(play())


def test_a_member_on_an_empty_disk_is_lent_the_start_and_gets_the_rest(learning: Learning, folders: list[Path]) -> None:
    async def play() -> None:
        async with started(learning, folders) as pair:
            offered = await grown(pair)
            await pair.stop(1)
            folders[1] = folders[1].with_name("c")
            pair.start(1)
            await pair.offer(range(offered, offered + 5))
            seen = await pair.both(lambda one: one.last == offered + 5)
            assert seen[0].head_sha256 == seen[1].head_sha256
            assert seen[1].start >= WINDOW
            assert (folders[1] / START).is_dir()

    asyncio.run(play())


def test_nothing_is_dropped_where_a_state_is_not_what_the_log_gives(
    learning: Learning, folders: list[Path], capsys: pytest.CaptureFixture
) -> None:
    async def play() -> None:
        async with started(learning, folders) as pair:
            await pair.offer(range(10))
            weights = read_learning(learning.base().files).weights.count
            wrong = Head(np.full(weights, 0.5, "<f4").tobytes(), bytes(4))
            pair.members[1]._replica.head = wrong  # as a bit that flipped in memory
            await pair.offer(range(10, 200))
            seen = await pair.both(lambda one: one.checkpoint_seq > 150)
            assert [one.start for one in seen] == [0, 0]

    asyncio.run(play())
    assert "kept all records" in capsys.readouterr().err


def test_senders_that_went_away_are_forgotten_while_there_is_no_follower(
    learning: Learning, folders: list[Path]
) -> None:
    async def play() -> None:
        pair = Pair(learning, folders)
        pair.start(0)
        async with asyncio.timeout(PATIENCE_S):
            while (await told(folders[0])).stand != "leads":
                await asyncio.sleep(0.02)
            row = ROWS[:1]
            for _ in range(5):  # each leaves before it is answered: nobody confirms
                _, writer = await asyncio.open_unix_connection(folders[0] / SOCKET)
                writer.write(pack(Kind.OFFER, OfferHead(f"{7:032x}", 1.0), encode_npz({"features": row})))
                await writer.drain()
                writer.close()
            while (await told(folders[0])).last != 1 or len(pair.members[0]._waiting):
                await asyncio.sleep(0.02)
        await pair.stop(0)

    asyncio.run(play())


def test_a_follower_that_lacks_more_than_a_link_holds_gets_it_all(
    learning: Learning, folders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = 6000
    what = read_learning(learning.base().files)
    log = UpdateLog(folders[0] / LOG, learning.base().bundle_id)
    row = np.ones(what.weights.count, np.float32)
    log.append(2, [admit(seq.to_bytes(16, "big"), 1.0, row, what) for seq in range(updates)])
    assert len(log.encoded(1, updates)) > 1 << 20  # what the system keeps of a socket is less
    log.close()
    monkeypatch.setattr(links, "_UNSENT_BYTES_MAX", 64 << 10)
    monkeypatch.setattr(shipping, "_UNSENT_BYTES_MAX", 16 << 10)
    monkeypatch.setattr(shipping, "SHIP_BYTES_MAX", 16 << 10)

    async def play() -> None:
        pair = Pair(learning, folders)
        for seat in (0, 1):
            pair.start(seat)
        async with sending(pair):
            await pair.both(lambda one: one.last == updates)
            await pair.offer(range(updates, updates + 5))

    asyncio.run(play())


@pytest.mark.parametrize(
    ("seat", "terms", "window"),
    [(0, SLOW_LEASES, WINDOW), (1, Terms(0, 3.0, 4.5), WINDOW), (1, Terms(1, 3.0, 5.0), WINDOW), (1, SLOW_LEASES, 9)],
    ids=["seat", "promise", "ahead", "window"],
)
def test_members_that_were_told_what_does_not_go_together_do_not_join(
    learning: Learning, folders: list[Path], seat: int, terms: Terms, window: int
) -> None:
    base, policy, key = learning.base(), learning.policy(), learning.update_key
    one = Member(Place(0, folders[0], folders[1]), SLOW_LEASES, base, policy, key, Keeping(20, WINDOW))
    other = Member(Place(seat, folders[1], folders[0]), terms, base, policy, key, Keeping(20, window))
    frame = Frame(Kind.GREET, other._greeting(Greet(2, leads=True)))
    with pytest.raises(Malformed, match="same settings"):
        one.heard(frame, links.Peer(None))


def test_a_record_that_is_no_update_is_not_stored(learning: Learning, folders: list[Path]) -> None:
    base = learning.base()
    place = Place(1, folders[1], folders[0])
    member = Member(place, SLOW_LEASES, base, learning.policy(), learning.update_key, Keeping(20, WINDOW))
    data, _ = encode(Record(2, 1, b"no update"), genesis(base.bundle_id))
    with pytest.raises(Malformed, match="does not fit"):
        member._replica.check(data)
    assert member._replica.log.tip.seq == 0


def test_logs_that_parted_in_one_epoch_are_not_taken_for_one(learning: Learning, folders: list[Path]) -> None:
    what = read_learning(learning.base().files)
    for seat in (0, 1):  # one of the disks was exchanged, and its member led in the same epoch again
        log = UpdateLog(folders[seat] / LOG, learning.base().bundle_id)
        row = np.full(what.weights.count, seat, np.float32)
        log.append(2, [admit(bytes([seat]) * 16, 1.0, row, what)])
        log.close()

    async def play() -> None:
        pair = Pair(learning, folders)
        for seat in (0, 1):
            pair.start(seat)
        async with sending(pair):
            seen = await pair.both(lambda one: one.last == 1)
            assert seen[0].head_sha256 == seen[1].head_sha256

    asyncio.run(play())
    assert list(folders[1].glob(f"{LOG}.cut-*"))


async def told(folder: Path) -> StatusHead:
    """Return where a member stands, once it listens."""
    while True:
        with suppress(Unreachable):
            return await status(folder)
        await asyncio.sleep(0.02)
