"""The service's command line and its clients: wrong usage, draining, clients that go away, and nothing that leaks."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sealed import Sealed
from serving import PATIENCE_S, POISON, ROWS, Clients, Service, Starter, asked, command, question, until

from pipeline.core.names import Role
from pipeline.drill.orders import EVERYBODY, Order, OrderKind

pytestmark = pytest.mark.slow


@pytest.fixture
def taken() -> Iterator[int]:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listening:
        yield listening.getsockname()[1]


def refused(
    pair: Sealed, *arguments: str, changed: dict[str, Path] | None = None
) -> "subprocess.CompletedProcess[str]":
    words = command(pair, None, arguments)
    for option, value in (changed or {}).items():
        words[words.index(option) + 1] = str(value)
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, cwd=pair.folder)


def test_wrong_usage_gets_one_sentence_and_an_exit_code(pair: Sealed, tmp_path: Path, taken: int) -> None:
    junk = tmp_path / "junk"
    junk.mkdir()
    cases = [
        (refused(pair, "--port", str(taken)), 40, "cannot be listened on"),
        (refused(pair, "--tls-cert", "only.pem"), 2, "--tls-key"),
        (refused(pair, "--verify", "replicas"), 2, "at least 2 replicas"),
        (refused(pair, "--primary", str(pair.primary)), 2, "as many --standby as --primary"),
        (refused(pair, "--primary", str(pair.primary), "--standby", str(pair.backup)), 20, "named twice"),
        (refused(pair, changed={"--trust": tmp_path / "none.yaml"}), 14, "none.yaml"),
        (refused(pair, changed={"--standby": junk}), None, "junk"),
        (refused(pair, "--replicas", "0"), 2, "replicas"),
        (refused(pair, "--queue", "0"), 2, "queue"),
        (refused(pair, "--probe-every-ms", "0"), 2, "probe"),
        (refused(pair, "--tokens", str(tmp_path / "none")), 13, "none"),
    ]
    for done, code, words in cases:
        assert done.returncode == code if code else done.returncode >= 30, (words, done.returncode, done.stderr)
        said = [line for line in done.stderr.splitlines() if not line.startswith(("INFO", "{", "  - "))]
        assert words in " ".join(said), (words, done.stderr)
        assert "Traceback" not in done.stderr
        assert len(said) <= 2, said


def test_without_a_standby_the_command_says_what_is_missing(pair: Sealed) -> None:
    words = command(pair, None, [])
    at = words.index("--standby")
    done = subprocess.run([*words[:at], *words[at + 2 :]], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 2
    assert "--standby" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("--batch-rows", "64", "--batch-wait-ms", "200")])
def test_sigterm_lets_what_was_accepted_be_answered_and_leaves_nothing(
    service: Starter, arguments: tuple[str, ...]
) -> None:
    served = service("--deadline-ms", "8000", *arguments, faulty=True)
    served.until_whole()
    assert served.orders
    served.orders.give(EVERYBODY, Order(OrderKind.SLOW, ms=80))
    replies: list[int] = []

    def ask() -> None:
        with contextlib.closing(served.connect()) as connection:
            replies.append(asked(connection, "POST", "/v2/models/tiny/infer", question(ROWS[:1])).status)

    asking = [threading.Thread(target=ask) for _ in range(12)]
    for thread in asking:
        thread.start()
    served.until(lambda pair: pair["queue"] and pair["queue"] + len(replies) >= len(asking))
    assert served.stop() == 0
    for thread in asking:
        thread.join()
    assert replies == [200] * len(asking)
    served.until_gone()


def counts(served: Service) -> tuple[int, int]:
    """Return how many descriptors and threads the server has."""
    process = Path("/proc") / str(served.server)
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def test_after_many_faults_the_server_has_no_more_descriptors_and_threads_than_before(service: Starter) -> None:
    served = service(admin=True, faulty=True)
    served.until_whole()
    assert served.orders
    served.infer()
    before = until(lambda: counts(served))
    served.orders.give(EVERYBODY, Order(OrderKind.CRASH, poison=POISON))
    for turn in range(6):
        features = ROWS[turn : turn + 1].copy()
        features[0, 3] = POISON
        assert served.infer(features).status == 422
        os.kill(served.pid(Role.BACKUP), signal.SIGKILL if turn % 2 else signal.SIGSTOP)
        served.until(lambda pair: all_ready(served, pair))
    until(lambda: len(served.of_title("hotspare worker")) == 2)  # the taster has gone
    for hung in range(20):
        go_away(served, ROWS[hung : hung + 1])
    until(lambda: counts(served)[0] <= before[0] and counts(served)[1] <= before[1] + 2)
    until(lambda: served.status()["queue"] == 0)  # who went away is computed to the end
    assert served.infer().status == 200


def all_ready(served: Service, pair: Any) -> bool:
    """Tell whether every member is ready; those that failed too often are brought back, as an operator would."""
    for role, member in zip(Role, pair["members"], strict=True):
        if member["state"] == "quarantined":
            served.admin("release", seat=f"{role}-0")
    return all(member["state"] == "ready" for member in pair["members"])


def go_away(served: Service, features: "object") -> None:
    """Ask, and hang up before the answer."""
    body = json.dumps(question(features)).encode()
    with contextlib.closing(socket.create_connection(("127.0.0.1", served.port))) as connection:
        head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_clients_that_hang_up_take_nobody_with_them(service: Starter) -> None:
    served = service("--batch-rows", "8", faulty=True)
    served.until_whole()
    assert served.orders
    served.orders.give(EVERYBODY, Order(OrderKind.SLOW, ms=5))
    with Clients(served) as clients:
        for row in range(30):
            go_away(served, ROWS[row : row + 1])
        clients.more()
    clients.assert_nothing_lost()
    served.until(lambda pair: pair["queue"] == 0)
