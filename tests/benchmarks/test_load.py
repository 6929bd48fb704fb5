"""The load generator neither omits nor invents: its figures are what the failover table stands on."""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import load

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nHotspare-Term: 7\r\n\r\nok"


def plan(port: int = 1, **changes: object) -> load.Plan:
    return load.Plan(**{"port": port, "path": "/x", "bodies": ("a", "bb"), "rate": 100.0, "seconds": 0.4, **changes})


def test_arrivals_are_the_seeds_and_keep_the_rate():
    long = plan(seconds=50.0, seed=3)
    due = load.schedule(long)
    assert due == load.schedule(long)
    assert due != load.schedule(plan(seconds=50.0, seed=4))
    assert len(due) == pytest.approx(5000, rel=0.1)
    assert [question for _, question in due[:4]] == [0, 1, 0, 1]
    gaps = np.diff([at_s for at_s, _ in due])
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.2)  # exponential


def test_constant_arrivals_are_evenly_spread_and_extras_are_among_them():
    due = load.schedule(plan(arrivals=load.Arrivals.CONSTANT, extras=(load.Extra(0.0151, "poison"),)))
    assert len(due) == 41
    assert due[2] == (0.0151, 2)
    assert due[3][0] == pytest.approx(0.02)


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
    """Answers every request at once, but stalls, drops or refuses the ones it is told to."""

    def __init__(self, stall: set[int] = frozenset(), drop: set[int] = frozenset()) -> None:
        self.count, self.stall, self.drop = 0, stall, drop

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
                number, self.count = self.count, self.count + 1
                if number in self.drop:
                    break
                if number in self.stall:
                    await asyncio.sleep(0.15)
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


def run(server: Server, **changes: object) -> list[load.Exchange]:
    async def both() -> list[load.Exchange]:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        generator = load.Generator(plan(port, **changes), loop)
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
    exchanges = run(Server(stall={5}), connections=1)
    slow = [one for one in exchanges if one.latency_ms > 100]
    assert len(slow) == 1
    assert all(one.status == 200 for one in exchanges)


def test_what_has_no_answer_by_its_deadline_is_lost_and_says_why():
    exchanges = run(Server(stall={5}, drop={9}), deadline_ms=80.0)
    lost = {one.error for one in exchanges if one.status == 0}
    assert lost == {"no answer by the deadline", "connection lost (closed)"}
    assert sum(one.status == 200 for one in exchanges) == len(exchanges) - 2


def test_a_record_comes_back_as_it_was_written(tmp_path):
    exchange = load.Exchange(1, 10.0, 10.5, 12.0, 200, {"a": "b"}, "ok")
    (tmp_path / "record.json").write_text(json.dumps(load.plain(load.Record(5.0, (exchange,)))))
    assert load.read_record(tmp_path / "record.json") == load.Record(5.0, (exchange,))
