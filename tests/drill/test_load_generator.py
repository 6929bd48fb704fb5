"""The load generator neither omits nor invents: its figures are what every drill stands on."""

import asyncio
import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.core.schema import plain as to_json
from pipeline.drill.live import load
from pipeline.drill.live.plan import Exchange, Extra, Plan, Record, read_due_times, read_record, schedule
from pipeline.drill.nouns import Arrivals

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nHotspare-Term: 7\r\n\r\nok"


def plan(port: int = 1, **changes: object) -> Plan:
    return Plan(**{"port": port, "path": "/x", "bodies": ("a", "bb"), "rate": 100.0, "seconds": 0.4, **changes})


def test_arrivals_are_the_seeds_and_keep_the_rate():
    long = plan(seconds=50.0, seed=3)
    due = schedule(long)
    assert due == schedule(long)
    assert due != schedule(plan(seconds=50.0, seed=4))
    assert len(due) == pytest.approx(5000, rel=0.1)
    assert [question for _, question in due[:4]] == [0, 1, 0, 1]
    gaps = np.diff([at_s for at_s, _ in due])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.2)  # exponential


def test_constant_arrivals_are_evenly_spread_and_extras_are_among_them():
    due = schedule(plan(arrivals=Arrivals.CONSTANT, extras=(Extra(0.0151, "poison"),)))
    assert len(due) == 41
    assert due[2] == (0.0151, 2)
    assert due[3][0] == pytest.approx(0.02)


def test_a_request_log_is_replayed_from_its_first_request_on(tmp_path: Path):
    (tmp_path / "log").write_text("100.5\n100.25\n\n101.75\n")
    due_s = read_due_times(tmp_path / "log")
    assert due_s == (0.0, 0.25, 1.5)
    assert schedule(plan(arrivals=Arrivals.REPLAY, due_s=due_s, seconds=1.0)) == [(0.0, 0), (0.25, 1)]


@pytest.mark.parametrize("text", ["", "soon\n", "nan\n", "1\ninf\n", "-1e308\n1e308\n"])
def test_a_request_log_without_times_is_refused(tmp_path: Path, text: str):
    (tmp_path / "log").write_text(text)
    with pytest.raises(DataError):
        read_due_times(tmp_path / "log")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "/", "/nowhere"])
def test_a_request_log_that_is_no_file_is_refused_unread(path: str):
    with pytest.raises(DataError, match="no file"):
        read_due_times(Path(path))


def test_a_file_that_is_no_request_log_is_not_told_to_whoever_wrote_the_script(tmp_path: Path):
    (tmp_path / "shadow").write_text("1.0\nroot:$6$secret:1:0:::::\n")
    with pytest.raises(DataError) as refused:
        read_due_times(tmp_path / "shadow")
    assert "secret" not in str(refused.value) and refused.value.__cause__ is None


@pytest.mark.parametrize("cut", [1, 10, 40, len(OK) - 1])
def test_a_response_is_read_however_its_bytes_come(cut):
    parser = load.ResponseParser()
    assert parser.feed(OK[:cut]) is None
    status, headers, body = parser.feed(OK[cut:])
    assert (status, headers["hotspare-term"], body) == (200, "7", b"ok")


def test_what_is_not_http_is_an_error_and_not_an_answer():
    with pytest.raises((ValueError, IndexError)):
        load.ResponseParser().feed(b"garbage\r\n\r\n")


class Server:
    """Answers every request at once, but drops those it is told to, and stalls others until so many more came."""

    def __init__(self, stall: set[int] = frozenset(), drop: set[int] = frozenset(), until: float = 0) -> None:
        self.count, self.stall, self.drop, self.until = 0, stall, drop, until

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                number, self.count = self.count, self.count + 1
                if number in self.drop:
                    break
                while number in self.stall and self.count < self.until:
                    await asyncio.sleep(0.001)
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def run(server: Server, generator_of: type[load.Generator] = load.Generator, **changes: object) -> list[Exchange]:
    async def both() -> list[Exchange]:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        generator = generator_of(plan(port, **changes), loop)
        await generator.connect()
        await generator.run(load.time.monotonic())
        listening.close()
        return generator.exchanges

    with asyncio.Runner(loop_factory=load.precise_loop) as runner:
        return runner.run(both())


def test_every_request_is_answered_and_counted_from_when_it_was_due():
    exchanges = run(Server())
    assert all(one.status == 200 for one in exchanges)
    assert all(one.done_ms >= one.sent_ms >= one.scheduled_ms for one in exchanges)


def test_a_stalled_answer_holds_no_other_request_up():
    exchanges = run(Server(stall={5}, until=20), connections=1, deadline_ms=20_000.0)
    assert all(one.status == 200 for one in exchanges)  # held up behind it, twenty would never have come
    assert any(one.done_ms >= exchanges[19].scheduled_ms for one in exchanges[:19])


def test_what_has_no_answer_by_its_deadline_is_lost_and_says_why():
    exchanges = run(Server(stall={5}, drop={9}, until=math.inf), deadline_ms=3000.0)
    lost = {one.error for one in exchanges if one.status == 0}
    assert lost == {"no answer by the deadline", "connection lost (closed)"}
    assert sum(one.status == 200 for one in exchanges) == len(exchanges) - 2


def test_an_answer_that_is_read_after_its_deadline_is_none_though_it_lay_there_in_time():
    class Busy(load.Generator):
        def now_ms(self) -> float:
            has_first = any(one.status for one in self.exchanges)
            return super().now_ms() + (6000.0 if has_first else 0.0)  # as after a stall of its own

    exchanges = run(Server(), generator_of=Busy, connections=64, deadline_ms=5000.0)
    assert sorted(one.status for one in exchanges) == [0] * (len(exchanges) - 1) + [200]
    assert {one.error for one in exchanges if one.status == 0} == {"no answer by the deadline"}


def test_a_record_comes_back_as_it_was_written(tmp_path):
    exchange = Exchange(1, 10.0, 10.5, 12.0, 200, {"a": "b"}, "ok")
    (tmp_path / "record.json").write_text(json.dumps(to_json(Record(5.0, (exchange,)))))
    assert read_record(tmp_path / "record.json") == Record(5.0, (exchange,))
