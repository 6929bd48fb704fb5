"""A soak's verdict, and a short soak of a real pair: nothing lost, nothing wrong, whatever is done to it."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sealed import sealed, tiny_rows

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import soak

from pipeline.core.names import Role
from pipeline.drill.live import judging
from pipeline.drill.live.launching import PairFiles

DEADLINE_MS = 5000.0  # other tests run beside: what is asked here is that nothing is lost, not how soon it comes
CLEAN = soak.Segment("control", "primary", judging.tally((), ()), 0, (), 80.0, 30, 130.0)
KILLED = replace(CLEAN, fault="kill", failovers=1, diagnosed=("killed",))


def test_a_clean_soak_may_not_fail_over_or_cry_wolf():
    assert list(soak.misses([CLEAN] * 4, has_faults=False)) == []
    alarmed = replace(CLEAN, failovers=1, diagnosed=("hang",))
    assert list(soak.misses([CLEAN, alarmed], has_faults=False)) == ["1 failovers without a fault (hang)"]
    assert list(soak.misses([KILLED, alarmed], has_faults=True)) == []


def test_a_fault_that_nobody_noticed_is_told_so_that_no_fault_may_fail_to_happen():
    unnoticed = [replace(CLEAN, fault="poison", role="backup")] * 2
    assert list(soak.misses([KILLED, *unnoticed], has_faults=True)) == ["faults that nobody noticed: poison backup"]
    woken = {role: replace(CLEAN, fault="resume", role=role) for role in ("primary", "backup")}
    assert list(soak.misses([KILLED, woken["backup"]], has_faults=True)) == []
    assert list(soak.misses([KILLED, woken["primary"]], has_faults=True)) == [
        "faults that nobody noticed: resume primary"
    ]


def test_lost_and_wrong_answers_are_told():
    bad = replace(KILLED, tally=replace(CLEAN.tally, lost=1, wrong=2))
    assert list(soak.misses([KILLED, bad], has_faults=True)) == ["1 lost", "2 wrong"]


def test_memory_and_descriptors_that_grow_are_told_and_the_first_segment_is_not_held_against_them():
    steady = [replace(KILLED, server_mb=40.0, server_descriptors=9), *[KILLED] * 8]
    assert list(soak.misses(steady, has_faults=True)) == []
    leaking = [replace(KILLED, server_mb=80.0 + 3 * n, server_descriptors=30 + 2 * n) for n in range(9)]
    told = list(soak.misses(leaking, has_faults=True))
    assert [text.split(" grew")[0] for text in told] == ["server_mb", "descriptors"]


def test_every_poison_is_another_one_so_that_it_is_not_stopped_as_a_known_one():
    questions = judging.Questions("tiny", tiny_rows(5), (), {})
    assert len({judging.poison_body(questions, row) for row in range(5)}) == 5
    assert judging.poison_body(questions, 5) == judging.poison_body(questions)


def soaked(tmp_path: Path, seconds: float, segment_s: float, has_faults: bool, stress: int = 0) -> list[str]:
    made = sealed(tmp_path / "sealed")
    files = PairFiles(made.primary, made.backup, made.trust)
    np.savez(tmp_path / "rows.npz", **tiny_rows(200))
    roles = {role: files.bundle(role) for role in Role}
    questions = judging.ask_offline(roles, files.trust, tmp_path / "rows.npz", 50)
    plan = soak.Soak(files, questions, seconds, segment_s, 50.0, 1, has_faults, stress, DEADLINE_MS)
    return soak.run_soak(plan, tmp_path / "soak.json", lambda text: print(text, file=sys.stderr))


@pytest.mark.slow
def test_a_pair_that_is_left_alone_answers_everything(tmp_path):
    assert soaked(tmp_path, 4, 2, has_faults=False) == []


@pytest.mark.slow
def test_faults_of_every_kind_cost_no_answer(tmp_path):
    assert soaked(tmp_path, 15, 5, has_faults=True) == []


@pytest.mark.long
def test_three_minutes_of_faults_cost_no_answer(tmp_path):
    assert soaked(tmp_path, 180, 15, has_faults=True) == []


@pytest.mark.long
def test_three_minutes_of_busy_processors_are_no_fault(tmp_path):
    assert soaked(tmp_path, 180, 30, has_faults=False, stress=2) == []


def test_a_bystander_tells_how_long_the_machine_stood_still():
    with soak.bystander() as over_ms:
        while len(over_ms) < 3:
            pass
    assert all(over >= 0 for over in over_ms)
    assert "stood still for 250 ms" in soak.in_words(1, replace(CLEAN, stall_ms=250.0))
