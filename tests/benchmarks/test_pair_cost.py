"""The serving table compares what was measured in the same round, and says what missed its target."""

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import closed_loop
import pair_cost
from closed_loop import Pace

from pipeline.drill.live.plan import Plan


def figures(ours: float = 1500.0, theirs: float = 2000.0) -> pair_cost.Figures:
    many = {
        "hotspare": [Pace(ours, 5.0, 9.0, 0)],
        "hotspare, batching": [Pace(1.2 * ours, 5.0, 9.0, 0)],
        "in one process": [Pace(theirs, 4.0, 8.0, 0)],
    }
    one = {
        "hotspare": [Pace(1000.0, 0.9, 2.0, 0)],
        "hotspare, batching": [Pace(1000.0, 0.9, 2.0, 0)],
        "in one process": [Pace(2000.0, 0.4, 1.0, 0)],
    }
    return pair_cost.Figures([0.03], one, many, [0.004], [0.8], ["MLServer was left out."])


def test_every_target_is_held_against_its_own_round():
    found = {row[0]: row[1:] for row in pair_cost.rows(figures())}
    assert found["p50 over the bare engine call, ms"] == ("0.870", "≤ 1", "holds")
    assert found["throughput × in one process"] == ("0.750", "≥ 0.7", "holds")
    assert found["the same with --batch-rows 8"] == ("0.900", "≥ 0.7", "holds")
    assert "throughput × MLServer 1.7.1" not in found


def test_a_missed_target_says_so_and_what_was_left_out_is_named():
    text = pair_cost.markdown(figures(ours=1000.0))
    assert "| throughput × in one process | 0.500 | ≥ 0.7 | missed |" in text
    assert "MLServer was left out." in text


def test_an_environment_of_other_packages_is_made_anew_and_one_of_the_same_is_used(tmp_path, monkeypatch):
    made = []

    def run(command, **_options):
        made.append(command)
        (tmp_path / "bin").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(pair_cost.subprocess, "run", run)
    (tmp_path / "ready").touch()  # as a call of other code left it
    assert pair_cost.mlserver_python(tmp_path) == pair_cost.mlserver_python(tmp_path) == tmp_path / "bin" / "python"
    assert len(made) == 2
    assert set(pair_cost.MLSERVER_PACKAGES) <= set(made[-1])


def test_an_answer_costs_each_process_its_share_of_what_it_computed_meanwhile():
    def busy() -> Pace:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        return Pace(500.0, 5.0, 9.0, 0)

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as idle:
        pace, costs = pair_cost.costing({"busy": os.getpid(), "idle": idle.pid}, busy, 0.2)
    assert pace.per_second == 500
    assert costs["busy"] > 700 > costs["idle"] >= 0  # 0.1 s for a hundred answers, less what a tick hides


class Answering(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while head := self.rfile.readline():
            length = 0
            while head.strip():
                if head.lower().startswith(b"content-length"):
                    length = int(head.split(b":")[1])
                head = self.rfile.readline()
            asked = json.loads(self.rfile.read(length))
            self.server.told[asked["status"]] += 1
            self.wfile.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % asked["status"])


@pytest.mark.parametrize("connections", [1, 3])
def test_answers_are_counted_and_errors_are_counted_apart(connections):
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads, server.told = True, Counter()
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        bodies = (json.dumps({"status": 200}), json.dumps({"status": 500}))
        began_s = time.perf_counter()
        found = closed_loop.pace(Plan(server.server_address[1], "/x", bodies, 1.0, 0.5, connections=connections))
        took_s = time.perf_counter() - began_s
        server.shutdown()
    told = server.told  # the last one of each connection may not have been heard
    assert (told.total() - connections) / took_s - 1 <= found.per_second <= told.total() / 0.5 + 1
    assert found.bad > 0
    assert told[500] - connections <= found.bad <= told[500]
    assert found.p50_ms <= found.p99_ms
