"""As many requests as come back: ``python benchmarks/closed_loop.py PLAN.json`` prints one JSON line.

For throughput only: each connection asks again when it was answered, so times under load are not latencies that a
client of a real service would see (the load generator of drills measures those). With one connection the time is that
of one request.
"""

import json
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.errors import InternalError
from pipeline.core.files import read_json
from pipeline.core.schema import plain, read
from pipeline.drill.live.load import ResponseParser
from pipeline.drill.live.plan import Plan, encoded


@dataclass(frozen=True)
class Pace:
    """How many answers a second, how long one took, and how many were no 200."""

    per_second: float
    p50_ms: float
    p99_ms: float
    bad: int


class Asker:
    """One connection that asks, waits, and asks again."""

    def __init__(self, plan: Plan, requests: Sequence[bytes], first: int) -> None:
        self.socket = socket.create_connection((plan.host, plan.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests, self._turn = requests, first
        self._parser = ResponseParser()
        self._asked_s = 0.0

    def ask(self) -> None:
        """Send the next request."""
        self._turn = (self._turn + 1) % len(self._requests)
        self._asked_s = time.perf_counter()
        self.socket.sendall(self._requests[self._turn])

    def hear(self) -> tuple[float, int] | None:
        """Read; return (ms, status) when the answer is whole. Raises InternalError when the connection is closed."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise InternalError("The server closed a connection under load; read its log.")
        response = self._parser.feed(data)
        return None if response is None else (1000 * (time.perf_counter() - self._asked_s), response[0])


def pace(plan: Plan) -> Pace:
    """Ask on every connection for the plan's seconds."""
    requests = encoded(plan)
    askers = [Asker(plan, requests, 7 * number) for number in range(plan.connections)]
    by_fd = {asker.socket.fileno(): asker for asker in askers}
    waiting = select.epoll()
    for fd in by_fd:
        waiting.register(fd, select.EPOLLIN)
    times: list[float] = []
    bad, began_s = 0, time.perf_counter()
    for asker in askers:
        asker.ask()
    while (elapsed_s := time.perf_counter() - began_s) < plan.seconds:
        for fd, _ in waiting.poll(1.0):
            if (heard := by_fd[fd].hear()) is not None:
                times.append(heard[0])
                bad += heard[1] != 200
                by_fd[fd].ask()
    for asker in askers:
        asker.socket.close()
    p50, p99 = np.percentile(times or [0.0], (50, 99))
    return Pace(round(len(times) / elapsed_s, 1), round(float(p50), 4), round(float(p99), 4), bad)


if __name__ == "__main__":
    print(json.dumps(plain(pace(read(Plan, read_json(Path(sys.argv[1]), InternalError))))))
