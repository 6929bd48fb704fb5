"""The service under clients, while its workers are killed, stopped, and come back: no request is lost."""

import os
import signal

import numpy as np
import pytest
from serving import ROWS, Clients, Starter, expected, until

from pipeline.core.names import Role

pytestmark = pytest.mark.slow


def killed(pid: int, number: int = signal.SIGKILL) -> None:
    os.kill(pid, number)


def test_both_sides_answer_and_every_process_says_what_it_is(service: Starter) -> None:
    served = service()
    served.until_whole()
    reply = served.infer(ROWS[:3])
    assert reply.role == "primary"
    np.testing.assert_allclose(reply.outputs, expected(ROWS[:3], Role.PRIMARY), atol=1e-6)
    titles = sorted(served.family().values())
    term = reply.term
    assert titles == [
        "hotspare keeper",
        "hotspare server",
        f"hotspare worker tiny backup term={term}",
        f"hotspare worker tiny primary term={term}",
    ]
    killed(served.pid(Role.PRIMARY))
    reply = served.infer(ROWS[:3])
    assert (reply.status, reply.role, reply.headers["hotspare-degraded"]) == (200, "backup", "true")
    np.testing.assert_allclose(reply.outputs, expected(ROWS[:3], Role.BACKUP), atol=1e-6)
    assert reply.term > term
    assert served.stop() == 0
    until(served.is_gone, 2.0)
