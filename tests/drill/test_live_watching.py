"""A log is read as what happened: when, of which kind, and who served since."""

import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from pipeline.core.names import Role
from pipeline.drill.live.launching import Seen
from pipeline.drill.live.processes import end_all, free_port, standing_in
from pipeline.drill.live.watching import Footprint, Sampler, at_s, is_server_death, moments_of, served_by
from pipeline.drill.nouns import Moment, MomentKind
from pipeline.drill.told import record_in, told_moment, told_served
from pipeline.runtime.members import Component

PRIMARY = {"model": "tiny", "event": "the primary serves (term 1)", "kind": "started"}
BACKUP = {"model": "tiny", "event": "the backup takes over (term 2)", "kind": "failover"}
NOBODY = {"model": "tiny", "event": "nobody serves: no member is ready", "kind": "outage"}
DIAGNOSED = {
    "model": "tiny", "event": "primary-0: killed", "fault": "killed", "component": "process", "seat": "primary-0",
    "confidence": 0.95,
}  # fmt: skip


def read_at(s: float, facts: dict) -> Seen:
    return Seen(s, facts)


def test_a_diagnosis_names_its_role_and_component_and_other_records_their_kind():
    found = told_moment(5.0, DIAGNOSED)
    assert (found.kind, found.role, found.component) == (MomentKind.DETECTED, Role.PRIMARY, Component.PROCESS)
    assert found.confidence == 0.95
    assert told_moment(5.0, BACKUP).kind is MomentKind.FAILOVER
    assert told_moment(5.0, PRIMARY).kind is MomentKind.OTHER
    assert told_moment(5.0, {"event": "Not swapped"}).kind is MomentKind.OTHER


def test_a_diagnosis_of_no_member_has_no_role():
    assert told_moment(0.0, {**DIAGNOSED, "seat": None}).role is None


def test_who_serves_is_told_by_kind_and_an_outage_keeps_the_term():
    assert told_served(1.0, BACKUP, 1) == (1.0, Role.BACKUP, 2)
    assert told_served(1.0, NOBODY, 2) == (1.0, None, 2)
    assert told_served(1.0, DIAGNOSED, 2) is None
    assert told_served(1.0, {"event": "the backup takes over (term 2)"}, 1) is None


def test_what_was_before_the_load_only_tells_who_served_at_its_start():
    seen = [read_at(9.0, PRIMARY), read_at(10.5, DIAGNOSED), read_at(10.6, BACKUP), read_at(10.7, {"event": "ready"})]
    assert served_by(seen, 10.0, ()) == ((0.0, Role.PRIMARY, 1), (pytest.approx(600), Role.BACKUP, 2))
    assert [one.kind for one in moments_of(seen, 10.0)] == [MomentKind.DETECTED, MomentKind.FAILOVER]


def test_nobody_serves_from_a_servers_death_until_its_successor_says_who():
    death = Moment(500.0, MomentKind.STRUCK, "server-death", strike=0)
    assert is_server_death(death)
    again = {**PRIMARY, "event": "the primary serves (term 1001)"}
    served = served_by([read_at(9.0, PRIMARY), read_at(10.9, again)], 10.0, (death,))
    assert [(role, term) for _, role, term in served] == [(Role.PRIMARY, 1), (None, 1), (Role.PRIMARY, 1001)]


def test_a_record_is_timed_by_its_stamp_unless_another_clock_made_it():
    now_s, ahead_s = time.monotonic(), time.time() - time.monotonic()

    def stamped(ago_s: float) -> dict:
        return {"at": datetime.fromtimestamp(now_s + ahead_s - ago_s, UTC).isoformat()}

    assert at_s(Seen(now_s, stamped(0.02)), ahead_s) == pytest.approx(now_s - 0.02, abs=1e-3)
    assert at_s(Seen(now_s, stamped(3600.0)), ahead_s) == now_s  # a clock that was set back
    assert at_s(Seen(now_s, stamped(-5.0)), ahead_s) == now_s
    assert at_s(Seen(now_s, {"at": "soon"}), ahead_s) == now_s
    assert at_s(Seen(now_s, {}), ahead_s) == now_s


def test_a_free_port_may_be_listened_at_and_is_given_to_nobody_who_asks_for_any():
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    socket.create_server(("127.0.0.1", port)).close()


def test_processes_are_found_by_where_they_stand_and_ended_with_those_they_started(tmp_path):
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()']); input()"
    process = subprocess.Popen([sys.executable, "-c", child], cwd=tmp_path, stdin=subprocess.PIPE)
    while len(standing_in(tmp_path)) < 2:
        assert process.poll() is None
    end_all(lambda: standing_in(tmp_path))
    process.wait()
    assert standing_in(tmp_path) == []


def test_a_footprint_counts_what_was_used_while_it_was_looked_at():
    footprint = Footprint()
    footprint.look([os.getpid(), 2**22 + 1], is_first=True)
    assert footprint.cpu_s == 0.0
    assert 1 < footprint.memory_mb < 100_000
    while footprint.cpu_s == 0.0:
        footprint.look([os.getpid()], is_first=False)
    assert footprint.cpu_ratio == 0.0  # no time is known to have passed
    footprint.seconds = 2 * footprint.cpu_s
    assert footprint.cpu_ratio == 0.5


def test_a_sampler_ends_with_its_block():
    with Sampler(lambda: [os.getpid()]) as sampler:
        pass
    assert sampler.seen.memory_mb > 0
    assert sampler.seen.seconds > 0


@pytest.mark.parametrize(
    ("line", "event"),
    [
        ('{"at":"2026","event":"ready"}\n', "ready"),
        ('{"at": "2026", "event": "ready"}\n', "ready"),
        ('INFO: Created TensorFlow Lite {"at":"2026","event":"ready"}\n', "ready"),
        ("XNNPACK delegate for CPU.\n", None),
        ('{"at":"2026","ev', None),
    ],
)
def test_a_record_is_read_behind_what_an_engine_says(line: str, event: str | None) -> None:
    record = record_in(line)
    assert (None if record is None else record["event"]) == event
