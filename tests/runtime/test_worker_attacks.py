"""Attacks of a worker on its server: a model that was made to run code of its own must not take the pair along."""

import argparse
import asyncio
import io
import json
import os
import signal
import struct
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import orjson
import pytest
from standins import StandIn, stand_in

from pipeline.commands.node.serve import add_arguments, serve
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import TensorSpec
from pipeline.runtime.arena import Arena
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.frames import BadFrame, Kind
from pipeline.runtime.http.logs import LogWriter
from pipeline.runtime.journal import Journal
from pipeline.runtime.link import WorkerLink
from pipeline.runtime.loading import ROWS_AT_ONCE, run_in_slices
from pipeline.runtime.members import Fault
from pipeline.runtime.requests import unpack_answer
from pipeline.runtime.tensor_frames import decode_tensors
from pipeline.runtime.worker_spec import ReadyFacts

FACTS = json.dumps(asdict(ReadyFacts("a" * 64, "dense.f32", "tiny", 12.0, 0.1, 0.2, 0.1, 1 << 20, 42))).encode()

CUT_OFF = """
import os
from pipeline.runtime.arena import Arena
ours = Arena.create()
theirs = os.dup(ours.fd)
for size in (0, ours.size // 2, ours.size * 2):
    try:
        os.ftruncate(theirs, size)
    except PermissionError:
        pass
print(len(bytes(ours.bytes_at(0, ours.size))) == ours.size)
"""


class Heard:
    """Writes down what a link tells."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []
        self.lost = asyncio.Event()

    def on_staged(self) -> None:
        self.told.append(("staged",))

    def on_ready(self, facts: ReadyFacts) -> None:
        self.told.append(("ready", facts))

    def on_start_failed(self, sentence: str, error: str) -> None:
        self.told.append(("failed", sentence, error))

    def on_answer(self, request_id: int, outputs: object, error: str | None, server_ms: float) -> None:
        self.told.append(("answer", request_id, outputs, error, server_ms))

    def on_lost(self) -> None:
        self.told.append(("lost",))
        self.lost.set()


def heard_of(*frames: tuple[Kind, bytes]) -> tuple[list[tuple[object, ...]], int]:
    """Return what a link tells of a worker that says this and then nothing, and the signal that ended it."""

    async def run(worker: StandIn) -> list[tuple[object, ...]]:
        heard = Heard()
        link = await WorkerLink.open(worker.spawned, heard)
        for kind, payload in frames:
            worker.say(kind, payload=payload)
        worker.connection.close()
        await asyncio.wait_for(heard.lost.wait(), 30)
        link.kill()
        return heard.told

    with stand_in() as worker:
        told = asyncio.run(run(worker))
        return told, -worker.process.wait(30)


def test_an_arena_that_is_cut_off_does_not_end_the_server() -> None:
    done = subprocess.run([sys.executable, "-c", CUT_OFF], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "True")


def test_the_seals_of_an_arena_cannot_be_changed() -> None:
    arena = Arena.create()
    with pytest.raises(PermissionError):
        os.ftruncate(arena.fd, 0)
    arena.close()


@pytest.mark.parametrize(
    "again", [(Kind.READY, FACTS), (Kind.STAGED, b""), (Kind.HELLO, b"")], ids=lambda frame: str(frame[0].name)
)
def test_a_worker_that_says_again_that_it_is_ready_is_ended(again: tuple[Kind, bytes]) -> None:
    told, end = heard_of((Kind.HELLO, b""), (Kind.STAGED, b""), (Kind.READY, FACTS), again, (Kind.FAILED, b'["a","b"]'))
    assert [what for what, *_ in told] == ["staged", "ready", "lost"]
    assert end == signal.SIGKILL


def test_what_a_worker_says_is_short_and_cannot_break_logs_or_pages() -> None:
    evil = json.dumps(["E" * 9999, "\ud800\x1b[2J\u202e" + "x" * 100_000]).encode()
    told, _ = heard_of((Kind.HELLO, b""), (Kind.FAILED, evil))
    _, sentence, error = told[0]
    assert isinstance(sentence, str)
    assert isinstance(error, str)
    assert sentence.startswith("\\ud800\\x1b[2J\\u202exxx")
    assert len(sentence) < 3000
    assert len(error) < 3000


@pytest.mark.parametrize(
    "facts",
    [
        b"[]",
        b'{"p50_ms": NaN}',
        FACTS.replace(b"0.1", b"NaN"),
        FACTS.replace(b"0.1", b"1e999"),
        FACTS.replace(b"0.1", b'"x"'),
        b"[" * 100_000,
    ],
)
def test_facts_that_are_none_end_the_worker(facts: bytes) -> None:
    told, end = heard_of((Kind.READY, facts))
    assert told == [("lost",)]
    assert end == signal.SIGKILL


@pytest.mark.parametrize("shape", [(0, *[2**32 - 1] * 31), (2**32 - 1,) * 32, (2**31, 2**31, 4), (2**32 - 1, 0)])
@pytest.mark.parametrize("place", [2**64 - 1, 2**64 - 4, 0, 2**63])
def test_a_shape_that_overflows_is_no_tensor(shape: tuple[int, ...], place: int) -> None:
    name = struct.pack("<H", 1) + b"x" + struct.pack("<BB", 10, len(shape)) + struct.pack(f"<{len(shape)}I", *shape)
    described = struct.pack("<H", 1) + name + struct.pack("<Q", place)
    payload = described + bytes(-len(described) % 16)
    slot = memoryview(bytearray(4096))
    try:
        tensors = decode_tensors(payload, 0, slot)
    except BadFrame:
        return
    assert all(array.nbytes == 0 for array in tensors.values())


@pytest.mark.parametrize("head", [b"", bytes(15), struct.pack("<dQ", float("nan"), 0), struct.pack("<dQ", -1.0, 0)])
def test_an_answer_without_a_time_is_none(head: bytes) -> None:
    with pytest.raises(BadFrame):
        unpack_answer(head + bytes(16), memoryview(b""))


def test_text_that_is_no_unicode_ends_neither_the_log_nor_the_page() -> None:
    stream = io.BytesIO()
    log = LogWriter(stream)
    journal = Journal("tiny", log.put)
    journal.note("\udcff", diagnose(None, Evidence(fault=Fault.SHORT, errors=("\ud800",))))
    log.put({"event": "\ud800"})
    log.put({"event": "after"})
    log.close()
    events = [orjson.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events[0] == "\\udcff"
    assert events[-1] == "after"
    assert len(events) == 3
    assert orjson.dumps(journal.timeline, default=dict)


@pytest.mark.parametrize("name", ["HOTSPARE_SIGNING_KEY", "HOTSPARE_TOKEN"])
def test_secrets_of_the_shell_are_in_no_memory_that_a_worker_inherits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Left(Exception):
        """This program was replaced by another."""

    def replaced(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise Left(program, arguments, environment)

    monkeypatch.setenv(name, "secret")
    monkeypatch.setattr(os, "execve", replaced)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args(["--primary", "a", "--standby", "b", "--trust", "c"])
    with pytest.raises(Left) as left:
        serve(args, ["/program", "-m", "again"])
    program, arguments, environment = left.value.args
    assert (program, arguments) == ("/program", ["/program", "-m", "again"])
    assert "secret" not in environment.values()
    assert environment["PATH"] == os.environ["PATH"]


class Counting:
    """A session that adds up each row, and notes how many it was given at once."""

    inputs = (TensorSpec("x", "float32", (-1, 4)),)
    outputs = (TensorSpec("sum", "float32", (-1,)),)

    def __init__(self) -> None:
        self.at_once: list[int] = []

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self.at_once.append(len(inputs["x"]))
        return {"sum": np.add.reduce(inputs["x"], axis=1)}


@pytest.mark.parametrize("rows", [1, ROWS_AT_ONCE, ROWS_AT_ONCE + 1, 10 * ROWS_AT_ONCE, 10_007])
def test_a_batch_bomb_takes_no_more_of_the_engine_than_a_few_rows(rows: int) -> None:
    session, x = Counting(), np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
    outputs = run_in_slices(session, {"x": x})
    assert np.array_equal(outputs["sum"], x.sum(axis=1))
    assert max(session.at_once) <= ROWS_AT_ONCE
    assert sum(session.at_once) == rows
