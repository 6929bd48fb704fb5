"""Diagnosis, pure: what was seen of a fault → which component is at fault, how surely, and what to do."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pipeline.runtime.members import Component, Diagnosis, Fault, Seat

SAID_MAX = 300  # characters of an engine's error that are passed on


@dataclass(frozen=True)
class Evidence:
    """What was seen when a fault was noticed; None: not looked at.

    ``exit_status`` is a wait status. ``late_ms`` is how long an answer was owed, ``runqueue_wait_ms`` and ``cpu_ms``
    how much of that the process waited for a processor and had one. ``errors`` are sentences and names of errors.
    """

    fault: Fault
    exit_status: int | None = None
    process_state: str | None = None  # the kernel's letter
    late_ms: float | None = None
    runqueue_wait_ms: float = 0.0
    cpu_ms: float | None = None
    canary_ok: bool | None = None
    memory_bytes_ok: bool | None = None  # the engine's input bytes still have the digest that was verified
    disk_ok: bool | None = None  # the bundle on disk still verifies
    other_side_ok: bool | None = None  # the other side did the same thing well, at the same time
    nonsense: str | None = None  # what it sent that is no frame, or no answer: it was killed for that
    suspects: int = 0  # requests that it was computing
    same_request: bool = False  # the other side is stuck on, or ended by, the same request
    oom_kills_delta: int | None = None  # kills by the kernel for want of memory, here at about this time
    errors: tuple[str, ...] = ()
    dependency: str | None = None  # what else was asked and did not answer: a registry, a store


@dataclass(frozen=True)
class _Finding:
    component: Component
    confidence: float
    evidence: tuple[str, ...]
    advice: str | None = None  # None: what is always advised for the component


_ADVICE = {
    Component.PROCESS: "It was restarted. If it comes again, look for who sends signals on this machine.",
    Component.ENGINE: "It was restarted. If it comes again, let the other side serve, and report it.",
    Component.WEIGHTS: "It was loaded again from disk. If it comes again, test this machine's memory.",
    Component.ARTIFACT: "Stage the bundle again from its channel; find out who wrote to it.",
    Component.REQUEST: "The request alone was refused. Look at what its sender does.",
    Component.RESOURCE: "Give the server more of what was short, or take load off this machine.",
    Component.DEPENDENCY: "Serving does not need it. Bring it back before the next release.",
    Component.ROUTER: "The keeper started it again. If it comes again, look at its log.",
}
# What errors of the kernel, of Python and of both engines say when something is short.
_SHORT = {
    "memory": (
        "memoryerror", "cannot allocate memory", "bad_alloc", "out of memory", "enomem", "failed to allocate",
        "unable to allocate",
    ),
    "disk": ("no space left", "enospc", "outofspace", "disk quota", "disk is full"),
    "descriptors": ("too many open files", "emfile", "enfile"),
    "processes": ("resource temporarily unavailable",),
}  # fmt: skip
_ARTIFACT_ERRORS = {"Tampered", "SignatureInvalid", "Malformed", "NotAccepted", "RolledBack", "Expired", "Revoked"}
_OF_NO_MEMBER = {Fault.POISON, Fault.TAMPERED, Fault.SHORT, Fault.WRONG_ANSWER, Fault.EXPIRED}
_LONG_MS = 100.0
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}


def diagnose(seat: Seat | None, evidence: Evidence) -> Diagnosis:
    """Return where a fault is; ``seat`` is None for faults that are not a member's."""
    finding = (
        _elsewhere(seat, evidence)
        or _PLAIN.get(evidence.fault)
        or _short_of(evidence)
        or _RULES[evidence.fault](evidence)
    )
    said = tuple(f"it said: {error[:SAID_MAX]}" for error in evidence.errors if " " in error)
    return Diagnosis(
        seat=seat,
        fault=evidence.fault,
        component=finding.component,
        evidence=(*finding.evidence, *said),
        confidence=finding.confidence,
        advice=finding.advice or _ADVICE[finding.component],
    )


def _elsewhere(seat: Seat | None, evidence: Evidence) -> _Finding | None:
    if evidence.dependency is not None or "Unreachable" in evidence.errors:
        what = evidence.dependency or "what it needs over the network"
        return _Finding(Component.DEPENDENCY, 0.95, (f"{what} did not answer",))
    if seat is None and evidence.fault not in _OF_NO_MEMBER:
        return _Finding(Component.ROUTER, 0.9, (f"the server itself: {_ending(evidence) or evidence.fault}",))
    return None


def _short_of(evidence: Evidence) -> _Finding | None:
    text = "\n".join(evidence.errors).lower()
    for what, signs in _SHORT.items():
        if any(sign in text for sign in signs):
            return _Finding(Component.RESOURCE, 0.9, (f"an error speaks of {what} that ran out",))
    has_ended = evidence.fault in (Fault.CRASH, Fault.KILLED, Fault.START_FAILED)
    return _PLAIN[Fault.OUT_OF_MEMORY] if has_ended and evidence.oom_kills_delta else None


def _ending(evidence: Evidence) -> str | None:
    status = evidence.exit_status
    if status is None:
        return None
    if os.WIFSIGNALED(status):
        return f"it ended by {_signal_name(os.WTERMSIG(status))}"
    return f"it ended with exit code {os.waitstatus_to_exitcode(status)}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _ended(evidence: Evidence) -> _Finding:
    status, ending = evidence.exit_status, _ending(evidence)
    if evidence.nonsense is not None:
        return _Finding(Component.ENGINE, 0.8, ("it sent what no worker sends, and was ended", evidence.nonsense))
    if status is None or ending is None:
        return _Finding(Component.PROCESS, 0.5, ("its connection closed; how it ended is not known",))
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in _FROM_OUTSIDE:
        return _Finding(Component.PROCESS, 0.95, (f"{ending}, a signal from outside",))
    if evidence.same_request:
        return _Finding(Component.REQUEST, 0.8, (ending, "the other side ended on the same request"))
    if not evidence.suspects:
        return _Finding(Component.ENGINE, 0.85, (ending, "nobody sent it a signal", "no request was in its hands"))
    return _Finding(
        Component.ENGINE,
        0.7,
        (ending, "nobody sent it a signal", "it was computing a request, which is tried again apart from the service"),
    )


def _late(evidence: Evidence) -> _Finding:
    seen = () if evidence.late_ms is None else (f"an answer was owed for {evidence.late_ms:.0f} ms",)
    if evidence.process_state in ("T", "t"):
        return _PLAIN[Fault.STOPPED]
    if evidence.process_state == "D":
        return _Finding(Component.RESOURCE, 0.7, (*seen, "the process waits for a disk"))
    has_computed = (evidence.cpu_ms or 0.0) >= _LONG_MS  # then it hangs, beside having waited
    if evidence.late_ms is not None and evidence.runqueue_wait_ms > evidence.late_ms / 2 and not has_computed:
        waited = f"{evidence.runqueue_wait_ms:.0f} ms of it the process waited for a processor"
        return _Finding(Component.RESOURCE, 0.85, (*seen, waited))
    if evidence.same_request:
        return _Finding(Component.REQUEST, 0.75, (*seen, "the other side is stuck on the same request"))
    if evidence.other_side_ok is False:
        return _Finding(Component.RESOURCE, 0.7, (*seen, "both sides are late at once: the machine is overloaded"))
    return _Finding(Component.ENGINE, 0.85, (*seen, *_busy(evidence), "the process is neither stopped nor starved"))


def _busy(evidence: Evidence) -> tuple[str, ...]:
    if evidence.cpu_ms is None or not evidence.late_ms:
        return ()
    return ("it computes without end" if evidence.cpu_ms > evidence.late_ms / 2 else "it waits for something",)


def _slow(evidence: Evidence) -> _Finding:
    finding = _late(evidence)
    if finding.component is not Component.ENGINE:
        return finding
    return _Finding(Component.ENGINE, 0.8, ("its answers are far slower than at warm-up", *finding.evidence))


def _errors(evidence: Evidence) -> _Finding:
    if evidence.other_side_ok is False:
        return _Finding(Component.REQUEST, 0.85, ("both sides fail at the same request",))
    what = "wrong outputs" if evidence.fault is Fault.BAD_OUTPUT else "errors"
    if evidence.memory_bytes_ok is False:
        return _Finding(Component.WEIGHTS, 0.9, (f"it answers with {what}", "the bytes it loaded have changed"))
    if evidence.canary_ok is False:
        return _Finding(Component.ENGINE, 0.9, (f"it answers a question with a known answer with {what}",))
    seen = "the other side answers the same requests well" if evidence.other_side_ok else "it alone was asked"
    return _Finding(Component.ENGINE, 0.85 if evidence.other_side_ok else 0.6, (f"it answers with {what}", seen))


def _wrong(evidence: Evidence) -> _Finding:
    seen = ["its answer to a question with a known answer is wrong"]
    if evidence.memory_bytes_ok is False:
        return _Finding(Component.WEIGHTS, 0.98, (*seen, "the bytes it loaded have changed"))
    if evidence.memory_bytes_ok:
        seen.append("the bytes it loaded have not changed: the packed copy that the engine runs has")
    if evidence.disk_ok is False:
        seen.append("the bundle on disk does not verify either: it will not load again")
    if evidence.other_side_ok is False:
        seen.append("the other side is wrong at the same time: the cause is shared, perhaps this machine's memory")
        advice = "Nothing is served until a side answers right again. Move the service to another machine."
        return _Finding(Component.WEIGHTS, 0.6, tuple(seen), advice)
    return _Finding(Component.WEIGHTS, 0.85, tuple(seen))


def _tampered(evidence: Evidence) -> _Finding:
    seen = ["the bundle on disk is not what was signed"]
    if evidence.memory_bytes_ok is not False:
        seen.append("what is loaded was verified before and goes on serving")
    return _Finding(Component.ARTIFACT, 0.98, tuple(seen))


def _start_failed(evidence: Evidence) -> _Finding:
    refused = _ARTIFACT_ERRORS.intersection(evidence.errors)
    if refused or evidence.disk_ok is False:
        return _Finding(Component.ARTIFACT, 0.95, ("its bundle was refused: nothing of it was loaded",))
    if "GoldenMismatch" in evidence.errors:
        seen = "the verified bytes answer differently here from where they were packed"
        return _Finding(Component.ENGINE, 0.8, (seen,), "Compare engine versions and processors of the two machines.")
    if {"FileAccess", "TrustPolicyError"}.intersection(evidence.errors):
        advice = "Look at the path and its permissions."
        return _Finding(Component.ARTIFACT, 0.8, ("a file that it needs cannot be read",), advice)
    if evidence.exit_status is not None:
        return replace(_ended(evidence), evidence=("it ended before it was ready", *_ended(evidence).evidence))
    if not evidence.errors:
        return replace(_late(evidence), evidence=("it was not ready in time", *_late(evidence).evidence))
    return _Finding(Component.ENGINE, 0.6, ("it could not load or warm up",))


_PLAIN = {
    Fault.OUT_OF_MEMORY: _Finding(
        Component.RESOURCE,
        0.8,
        (
            "it was killed as the kernel killed for want of memory",
            "the kernel counts such kills for the whole machine: that one may have been another process",
        ),
    ),
    Fault.STOPPED: _Finding(Component.PROCESS, 0.95, ("the process is stopped (SIGSTOP or a debugger)",)),
    Fault.CORRUPT_WEIGHTS: _Finding(Component.WEIGHTS, 0.98, ("the bytes it loaded have changed in memory",)),
    Fault.MEMORY_GROWTH: _Finding(
        Component.RESOURCE,
        0.8,
        ("its resident memory grew beyond its limit since warm-up",),
        "It was replaced. If it comes again, the engine leaks: report it.",
    ),
    Fault.EXPIRED: _Finding(
        Component.DEPENDENCY,
        0.95,
        ("the channel was not renewed before it ended",),
        "Renew it where it is signed, and find out why it did not reach this node: its depot, the network, its clock.",
    ),
    Fault.SHORT: _Finding(Component.RESOURCE, 0.8, ("the server could not write or open what it needs",)),
    Fault.POISON: _Finding(
        Component.REQUEST, 0.95, ("a worker of its own, given nothing but this request, ended too",)
    ),
}
_RULES: Mapping[Fault, Callable[[Evidence], _Finding]] = {
    Fault.CRASH: _ended,
    Fault.KILLED: _ended,
    Fault.HANG: _late,
    Fault.SLOW: _slow,
    Fault.ERRORS: _errors,
    Fault.BAD_OUTPUT: _errors,
    Fault.WRONG_ANSWER: _wrong,
    Fault.TAMPERED: _tampered,
    Fault.START_FAILED: _start_failed,
}
