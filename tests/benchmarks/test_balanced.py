"""What we are compared with is set up as well as we can: HAProxy asks the other worker where the first one fails."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from sealed import sealed, tiny_rows

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from balanced import Balanced

from pipeline.core.names import Role
from pipeline.drill.live.generating import RECORD_FILE, generating
from pipeline.drill.live.judging import ask_offline, judge_all, tally
from pipeline.drill.live.launching import PairFiles
from pipeline.drill.live.plan import Plan, read_record
from pipeline.drill.orders import Order, OrderKind, process_address

DEADLINE_MS = 5000.0  # other tests run beside: what is asked here is that nothing is lost, not how soon it comes


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("haproxy", path="/usr/sbin:/usr/bin") is None, reason="HAProxy is not installed")
def test_a_primary_that_answers_500_costs_haproxy_no_request(tmp_path):
    made = sealed(tmp_path / "sealed")
    files = PairFiles(made.primary, made.backup, made.trust)
    np.savez(tmp_path / "rows.npz", **tiny_rows(50))
    questions = ask_offline({role: files.bundle(role) for role in Role}, files.trust, tmp_path / "rows.npz", 50)
    system = Balanced(files, tmp_path)
    try:
        system.start()
        system.book.give(process_address(system.pid(Role.PRIMARY)), Order(OrderKind.ERRORS))
        path = f"/v2/models/{questions.model}/infer"
        plan = Plan(system.port, path, questions.bodies, rate=40.0, seconds=1.0, deadline_ms=DEADLINE_MS)
        with generating(plan, tmp_path):
            pass
    finally:
        system.stop()
    exchanges = read_record(tmp_path / RECORD_FILE).exchanges
    found = tally(exchanges, judge_all(exchanges, questions))
    assert found.errors == {}
    assert (found.wrong, found.degraded) == (0, found.sent)
