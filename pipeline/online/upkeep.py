"""What a member makes beside its work: checkpoints, and the start of a shorter log. Threads make them, one at a time.

What comes of a thread counts only if it still fits when it is done: records may have been cut, another start lent.
"""

import asyncio
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.learning import read_checkpoint
from pipeline.bundle.verify import verify_checkpoint
from pipeline.core.clock import utc_now
from pipeline.core.errors import Untrusted
from pipeline.online.checkpoints import Loaded, checkpoint_payload, load_checkpoint, seal_checkpoint, signature_file
from pipeline.online.leading import may_go
from pipeline.online.leading_nouns import Shortened, State
from pipeline.online.learner import Head
from pipeline.online.place import CHECKPOINT, START, Keeping, Place
from pipeline.online.records import Record, Tip
from pipeline.online.replica import Replica
from pipeline.online.starts import Start, heads_at, make_start, state_digest
from pipeline.online.voice import Voice
from pipeline.online.wire import HeldHead


class Upkeep:
    """Checkpoints and the log's start of one member; ``theirs`` is what the other one says that it holds."""

    def __init__(
        self, place: Place, replica: Replica, key: ec.EllipticCurvePrivateKey, keeping: Keeping, voice: Voice
    ) -> None:
        self._folder, self._replica, self._key, self._voice = place.folder, replica, key, voice
        self._window = keeping.window
        self._held = asyncio.Event()  # one of the members has a checkpoint more
        self.theirs: HeldHead | None = None

    def heard(self, theirs: HeldHead) -> None:
        """Take what the other member says that it holds."""
        self.theirs = theirs
        self._held.set()

    # Checkpoints.

    def resumed(self) -> Loaded | None:
        """Return the checkpoint that is on disk, or None where it is none of this log: then a new one is made."""
        folder, has = self._folder / CHECKPOINT, self._replica
        if not folder.exists():
            return None
        try:
            found = read_checkpoint(verify_checkpoint(folder, has.base, has.policy, utc_now()).files)
            tip = has.log.tip_at(found.seq)
            return None if tip is None else load_checkpoint(folder, has.base, has.policy, tip)
        except Untrusted as error:
            self._voice.say("made a new checkpoint instead of one that is not trusted", reason=str(error))
            return None

    async def keep_checkpoint(self, tell: Callable[[], None]) -> None:
        """Make a checkpoint whenever one is due, and ``tell`` of it; the one before answers until then."""
        has = self._replica
        while True:
            await has.due.wait()
            has.due.clear()
            tip, head = has.log.tip, has.head
            if has.loaded is not None and has.loaded.checkpoint.record == tip.digest.hex():
                continue
            with self._voice.stopping():
                made = await asyncio.to_thread(self._made, head, tip)
            if has.holds(made):  # its records were not cut meanwhile
                has.loaded = made
                self._voice.say("checkpoint", seq=tip.seq, bundle_id=made.bundle.bundle_id)
                tell()
                self._held.set()

    def _made(self, head: Head, tip: Tip) -> Loaded:
        has, folder = self._replica, self._folder / CHECKPOINT
        with has.parsing:
            payload = checkpoint_payload(has.base, head, tip)
        seal_checkpoint(folder, payload, self._key)
        with has.parsing:
            return load_checkpoint(folder, has.base, has.policy, tip)

    # What the log starts from.

    async def keep_log_short(self, state: Callable[[], State], happened: Callable[[Shortened], None]) -> None:
        """Drop old records whenever both members hold the state after them; those of the window stay."""
        while True:
            await self._held.wait()
            self._held.clear()
            loaded, theirs = self._replica.loaded, self.theirs
            if loaded is None or theirs is None or not self._replica.has(theirs.seq, theirs.record):
                continue
            upto = may_go(state(), loaded.checkpoint.seq, theirs.seq, self._window)
            if upto is not None and await self._shorten(upto, loaded, theirs):
                happened(Shortened(upto))
                self._voice.say("dropped old records", upto=upto, last=self._replica.log.tip.seq)

    async def _shorten(self, upto: int, loaded: Loaded, theirs: HeldHead) -> bool:
        has = self._replica
        before, tip = has.start, has.log.tip_at(upto)
        records = has.log.records(before.tip.seq + 1)
        if tip is None:
            return False
        with self._voice.stopping():
            made = await asyncio.to_thread(self._start_at, tip, records, loaded, theirs)
            if made is None or has.start is not before:  # another one was lent meanwhile
                return False
            has.shorten(made)
        return True

    def _start_at(self, tip: Tip, records: Sequence[Record], loaded: Loaded, theirs: HeldHead) -> Start | None:
        """Make the start of a shorter log, in a thread; None when the members do not hold the same state."""
        has, before, mine = self._replica, self._replica.start, loaded.checkpoint.seq
        heads = heads_at(before, records, (tip.seq, mine, theirs.seq), has.learning)
        if state_digest(heads[theirs.seq]) != theirs.state or heads[mine] != has.head_of(loaded):
            self._voice.say("kept all records: the members' checkpoints are not what their logs give", seq=theirs.seq)
            return None
        with has.parsing:
            payload = checkpoint_payload(has.base, heads[tip.seq], tip)
        signature = signature_file(payload, self._key)
        with has.starting:
            if has.start is not before:
                return None
            return make_start(self._folder / START, payload, signature, has.base, has.policy)
