"""Diagnosis: every class of fault ends at the right component, with its reasons in words."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.names import Role
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.members import Component, Fault, Seat

P = Seat(Role.PRIMARY)


def exited(code: int) -> int:
    return code << 8


CASES = [
    ("kill -9", Evidence(Fault.CRASH, exit_status=signal.SIGKILL), Component.PROCESS),
    ("kill", Evidence(Fault.KILLED, exit_status=signal.SIGTERM), Component.PROCESS),
    ("segfault", Evidence(Fault.CRASH, exit_status=signal.SIGSEGV, suspects=1), Component.ENGINE),
    ("abort, core dumped", Evidence(Fault.CRASH, exit_status=signal.SIGABRT | 0x80), Component.ENGINE),
    ("exit", Evidence(Fault.CRASH, exit_status=exited(1)), Component.ENGINE),
    ("no status", Evidence(Fault.CRASH), Component.PROCESS),
    ("nonsense", Evidence(Fault.CRASH, nonsense="255 is no kind of frame", suspects=1), Component.ENGINE),
    ("kernel's kill", Evidence(Fault.KILLED, exit_status=signal.SIGKILL, oom_kills_delta=1), Component.RESOURCE),
    ("allocation", Evidence(Fault.CRASH, exit_status=exited(1), errors=("MemoryError",)), Component.RESOURCE),
    ("limit", Evidence(Fault.ERRORS, errors=("std::bad_alloc in op 3",), other_side_ok=True), Component.RESOURCE),
    ("stopped", Evidence(Fault.STOPPED), Component.PROCESS),
    ("debugger", Evidence(Fault.HANG, process_state="t", late_ms=160), Component.PROCESS),
    ("hang, spinning", Evidence(Fault.HANG, process_state="R", late_ms=160, cpu_ms=155), Component.ENGINE),
    ("hang, waiting", Evidence(Fault.HANG, process_state="S", late_ms=160, cpu_ms=0), Component.ENGINE),
    ("starved", Evidence(Fault.HANG, process_state="R", late_ms=900, runqueue_wait_ms=700), Component.RESOURCE),
    ("disk wait", Evidence(Fault.HANG, process_state="D", late_ms=160), Component.RESOURCE),
    ("both late", Evidence(Fault.HANG, process_state="R", late_ms=1000, other_side_ok=False), Component.RESOURCE),
    ("one request, both stuck", Evidence(Fault.HANG, process_state="R", same_request=True), Component.REQUEST),
    ("slow", Evidence(Fault.SLOW, process_state="S", other_side_ok=True), Component.ENGINE),
    ("slow machine", Evidence(Fault.SLOW, other_side_ok=False), Component.RESOURCE),
    ("5xx", Evidence(Fault.ERRORS, other_side_ok=True, errors=("it failed",)), Component.ENGINE),
    ("canary 5xx", Evidence(Fault.ERRORS, canary_ok=False), Component.ENGINE),
    ("bad request", Evidence(Fault.ERRORS, other_side_ok=False), Component.REQUEST),
    ("NaN", Evidence(Fault.BAD_OUTPUT, other_side_ok=True), Component.ENGINE),
    ("NaN, changed bytes", Evidence(Fault.BAD_OUTPUT, memory_bytes_ok=False), Component.WEIGHTS),
    ("canary", Evidence(Fault.WRONG_ANSWER, canary_ok=False, memory_bytes_ok=True), Component.WEIGHTS),
    ("both canaries", Evidence(Fault.WRONG_ANSWER, canary_ok=False, other_side_ok=False), Component.WEIGHTS),
    ("scrub", Evidence(Fault.CORRUPT_WEIGHTS, memory_bytes_ok=False), Component.WEIGHTS),
    ("tampered", Evidence(Fault.TAMPERED, disk_ok=False), Component.ARTIFACT),
    ("tampered at start", Evidence(Fault.START_FAILED, errors=("x differs", "Tampered")), Component.ARTIFACT),
    ("expired", Evidence(Fault.START_FAILED, errors=("past its date", "Expired")), Component.ARTIFACT),
    ("golden", Evidence(Fault.START_FAILED, errors=("differs", "GoldenMismatch")), Component.ENGINE),
    ("disk full", Evidence(Fault.START_FAILED, errors=("No space left on device",)), Component.RESOURCE),
    ("descriptors", Evidence(Fault.START_FAILED, errors=("[Errno 24] Too many open files",)), Component.RESOURCE),
    ("slow start", Evidence(Fault.START_FAILED, late_ms=30000, runqueue_wait_ms=25000), Component.RESOURCE),
    ("growth", Evidence(Fault.MEMORY_GROWTH), Component.RESOURCE),
    ("poison", Evidence(Fault.POISON), Component.REQUEST),
]


@pytest.mark.parametrize(("evidence", "component"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_the_component_is_named(evidence: Evidence, component: Component) -> None:
    assert diagnose(P, evidence).component is component


def test_a_registry_that_is_down_is_a_dependency() -> None:
    diagnosis = diagnose(None, Evidence(Fault.ERRORS, dependency="the registry"))
    assert diagnosis.component is Component.DEPENDENCY
    assert "the registry did not answer" in diagnosis.evidence


def test_the_server_that_was_killed_is_the_router() -> None:
    diagnosis = diagnose(None, Evidence(Fault.KILLED, exit_status=signal.SIGKILL))
    assert diagnosis.component is Component.ROUTER
    assert "SIGKILL" in diagnosis.evidence[0]


def test_surer_with_better_evidence() -> None:
    bare = diagnose(P, Evidence(Fault.WRONG_ANSWER, canary_ok=False))
    hashed = diagnose(P, Evidence(Fault.WRONG_ANSWER, canary_ok=False, memory_bytes_ok=False))
    assert hashed.confidence > bare.confidence


MAYBE = st.none() | st.booleans()


@given(
    st.builds(
        Evidence,
        fault=st.sampled_from(Fault),
        exit_status=st.none() | st.sampled_from([0, 9, 11, 6 | 0x80, 64, 3 << 8, 255 << 8]),
        process_state=st.none() | st.sampled_from("RSDTtZX"),
        late_ms=st.none() | st.floats(0, 1e6),
        runqueue_wait_ms=st.floats(0, 1e6),
        cpu_ms=st.none() | st.floats(0, 1e6),
        canary_ok=MAYBE,
        memory_bytes_ok=MAYBE,
        disk_ok=MAYBE,
        other_side_ok=MAYBE,
        suspects=st.integers(0, 3),
        same_request=st.booleans(),
        oom_kills_delta=st.none() | st.integers(0, 2),
        errors=st.lists(st.text(max_size=20), max_size=3).map(tuple),
        dependency=st.none() | st.just("a store"),
    ),
    st.none() | st.just(P),
)
def test_every_diagnosis_says_why_how_surely_and_what_to_do(evidence: Evidence, seat: Seat | None) -> None:
    diagnosis = diagnose(seat, evidence)
    assert diagnosis.fault is evidence.fault
    assert diagnosis.evidence and all(diagnosis.evidence)
    assert 0.5 <= diagnosis.confidence < 1
    assert diagnosis.advice.endswith(".")
