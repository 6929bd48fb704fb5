"""What a member holds: the log, what it starts from, the state that replaying it gives, and the checkpoint of it.

Log and start are on disk before anything else is told of them; the state is always that of the log's last record.
"""

import asyncio
import threading

from pipeline.bundle.learning import read_learning
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.verify import VerifiedBundle
from pipeline.online.checkpoints import Loaded, tip_of
from pipeline.online.learner import ID_BYTES, Head, decode_update, read_head, replay
from pipeline.online.place import LOG, START, Keeping, Place
from pipeline.online.records import Checked, Record
from pipeline.online.starts import Start, keep_start, read_start, settle, state_digest
from pipeline.online.update_log import UpdateLog
from pipeline.online.voice import Voice
from pipeline.online.wire import HeldHead


class Replica:
    """One member's copy of all that was learned; raises what the disk, the log and verifying the start raise."""

    def __init__(self, place: Place, base: VerifiedBundle, policy: TrustPolicy, keeping: Keeping, voice: Voice) -> None:
        self.base, self.policy, self._every, self._voice = base, policy, keeping.every, voice
        self.learning = read_learning(base.files)
        self._folder = place.folder / START
        self.log = UpdateLog(place.folder / LOG, base.bundle_id)
        self.start = read_start(self._folder, base, policy)
        settle(self.log, self.start, self._folder)
        self.starting = threading.Lock()  # who changes the start
        # CPython 3.11 dies where two threads parse npz headers at once: "AST constructor recursion depth mismatch".
        self.parsing = threading.Lock()
        self.seqs: dict[str, int] = {}  # of every update in the log, by its id
        self.head = self.start.head
        self.loaded: Loaded | None = None
        self.due = asyncio.Event()  # a checkpoint is
        self.due.set()

    def resume(self, loaded: Loaded | None) -> None:
        """Begin with the checkpoint that is on disk, if there is one."""
        self.loaded = loaded
        self._replay()

    # The log grows, and is cut.

    def append(self, epoch: int, payloads: list[bytes]) -> None:
        """Put updates of an epoch on disk and learn from them."""
        first = self.log.tip.seq + 1
        self.log.append(epoch, payloads)
        self._learn_from(first)

    def check(self, data: bytes) -> Checked:
        """Read shipped records; raises what is wrong with them before one is stored: it could never be replayed."""
        checked = self.log.check(data)
        for record in checked.records:
            decode_update(record.payload, self.learning)
        return checked

    def store(self, checked: Checked) -> None:
        """Put shipped records on disk and learn from them."""
        first = self.log.tip.seq + 1
        self.log.append_checked(checked)
        self._learn_from(first)

    def cut(self, seq: int) -> None:
        """Drop all records after ``seq``, and what was learned from them."""
        if seq < self.log.tip.seq:
            self._voice.say("cut records that the leader does not have", after=seq, last=self.log.tip.seq)
            self.log.cut(seq)
            self._replay()

    def install(self, lent: Start) -> None:
        """Begin the log anew from a checkpoint that was lent."""
        with self.starting:
            keep_start(self._folder, lent)
            self.log.begin(lent.tip)
            self.start = lent
        self._voice.say("began the log anew from a checkpoint that was lent", seq=lent.tip.seq)
        self._replay()

    def shorten(self, made: Start) -> None:
        """Go on from a start that is in place: drop the records before it, and forget their ids."""
        dropped = self.log.records(self.start.tip.seq + 1, made.tip.seq)
        self.start = made
        self.log.shorten(made.tip.seq)
        for record in dropped:
            if self.seqs.get(_identity(record)) == record.seq:
                del self.seqs[_identity(record)]

    # The state.

    def _learn_from(self, first: int) -> None:
        records = self.log.records(first)
        self.head = replay(self.head, [record.payload for record in records], self.learning)
        self.seqs.update((_identity(record), record.seq) for record in records)
        if self.loaded is None or self.log.tip.seq - self.loaded.checkpoint.seq >= self._every:
            self.due.set()

    def _replay(self) -> None:
        """Set the state anew: the checkpoint's, if it is of this log, else the start's, and what came after it."""
        loaded = self.loaded
        if loaded is not None and not self.holds(loaded):
            loaded = self.loaded = None
        done = self.start.tip.seq if loaded is None else loaded.checkpoint.seq
        self.head = self.start.head if loaded is None else self.head_of(loaded)
        self.seqs = {_identity(record): record.seq for record in self.log.records(self.start.tip.seq + 1, done)}
        self._learn_from(done + 1)

    # What is asked of it.

    def holds(self, loaded: Loaded) -> bool:
        """Tell whether a checkpoint is of this log."""
        return self.log.tip_at(loaded.checkpoint.seq) == tip_of(loaded.checkpoint)

    def has(self, seq: int, record: str) -> bool:
        """Tell whether the log's record has this digest."""
        return self.log.digest_at(seq) == record

    def head_of(self, loaded: Loaded) -> Head:
        """Return the state that a checkpoint holds."""
        return read_head(loaded.bundle.model_file, self.learning)

    def held(self) -> HeldHead | None:
        """Return which state is held for sure: the other member may then drop the records before it."""
        if self.loaded is None:
            return None
        found = self.loaded.checkpoint
        return HeldHead(found.seq, found.record, state_digest(self.head_of(self.loaded)))


def _identity(record: Record) -> str:
    return record.payload[:ID_BYTES].hex()
