import os
from pathlib import Path

import pytest

from pipeline.core.errors import InternalError
from pipeline.core.names import Role
from pipeline.runtime.control import (
    ForkFailed,
    Leaving,
    Line,
    Message,
    Replaced,
    SpawnAsked,
    WorkerEnded,
    WorkerForked,
)
from pipeline.runtime.members import Seat
from pipeline.runtime.worker_spec import WorkerSpec

SPEC = WorkerSpec("b", "t", Seat(Role.PRIMARY, 1), 2, 3, False, "tiny", threads=2)
MESSAGES: list[Message] = [
    SpawnAsked(1, SPEC), Leaving(3), Replaced(), WorkerForked(1, 99), ForkFailed(1, "No memory."), WorkerEnded(99, 139),
]  # fmt: skip


def test_messages_come_in_order_each_with_its_own_descriptors(tmp_path: Path) -> None:
    ours, theirs = map(Line, Line.pair())
    held = os.open(tmp_path, os.O_RDONLY)
    for number, message in enumerate(MESSAGES):
        ours.send(message, (held,) * (number % 4))
    for number, message in enumerate(MESSAGES):
        received = theirs.receive()
        assert received is not None
        assert received[0] == message
        assert [os.fstat(fd).st_ino for fd in received[1]] == [os.fstat(held).st_ino] * (number % 4)
        for fd in received[1]:
            os.close(fd)
    os.close(held)
    with pytest.raises(BlockingIOError):
        theirs.receive()
    ours.socket.close()
    assert theirs.receive() is None
    theirs.socket.close()


@pytest.mark.parametrize("data", [b"{", b"[]", b'["Nothing", {}]', b'["Leaving", {"code": "x"}]', b'["Leaving", {}]'])
def test_words_of_another_version_are_told_as_such(data: bytes) -> None:
    ours, theirs = map(Line, Line.pair())
    ours.socket.send(data)
    with pytest.raises(InternalError, match="do not understand each other"):
        theirs.receive()
    ours.socket.close()
    theirs.socket.close()
