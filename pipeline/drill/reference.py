"""The tables of ``docs/drills.md`` that follow from the code: ``python -m pipeline.drill.reference docs/drills.md``."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.core.files import write_atomic
from pipeline.drill.fault_facts import FACTS, FaultFacts
from pipeline.drill.nouns import FaultKind, Objectives
from pipeline.drill.script_words import ANY, figure
from pipeline.runtime.settings import Settings

Tables = Mapping[str, str]


@dataclass(frozen=True)
class Done:
    """What a fault is in each world."""

    live: str
    simulated: str


_ENGINE = "the same"
_REFUSED = "its verification fails from then on; the server is told to read again"
DONE: Mapping[FaultKind, Done] = {
    FaultKind.KILL: Done("SIGKILL to the worker's process", "its process ends as by SIGKILL"),
    FaultKind.STOP: Done(
        "SIGSTOP to the worker's process, SIGCONT when it is taken back",
        "its process is frozen with all that it was sent; it goes on where it was",
    ),
    FaultKind.HANG: Done("the engine's call spins and never returns", "the call has no end"),
    FaultKind.EXIT: Done(
        "every worker that loads this role's model calls exit at its first request; its successors too", _ENGINE
    ),
    FaultKind.ERRORS: Done("the engine raises at every request", _ENGINE),
    FaultKind.MALFORMED: Done("each output is given twice over, side by side", _ENGINE),
    FaultKind.WRONG_DTYPE: Done("outputs come as float64", _ENGINE),
    FaultKind.NAN: Done("outputs are all NaN", _ENGINE),
    FaultKind.SLOW: Done(
        "each answer sleeps `ms`, up to `jitter_ms` more, and `ramp_ms` more each time", "the same, on virtual time"
    ),
    FaultKind.WRONG_ANSWERS: Done("`bias` is added to every output", _ENGINE),
    FaultKind.CORRUPT_WEIGHTS: Done(
        "the worker goes on with a copy of its model whose weights were flipped; before the load it was proven that "
        "this changes at least 5 % of the answers",
        "answers to about a third of the rows are off by more than tolerance",
    ),
    FaultKind.BIT_FLIP: Done("one bit of the model's file is flipped on disk; SIGHUP", _REFUSED),
    FaultKind.TRUNCATED: Done("the last eighth of the model's file is cut off; SIGHUP", _REFUSED),
    FaultKind.TAMPERED: Done(
        "the model card is rewritten, and its digest inside the signature file with it; SIGHUP", _REFUSED
    ),
    FaultKind.EXPIRED: Done(
        "the drill's own channel is renewed so that it ends at that moment; SIGHUP", "the channel is one that ended"
    ),
    FaultKind.ROLLED_BACK: Done(
        "the channel of the version before, with its bundles, is put in place; SIGHUP",
        "the same: the production rules judge it",
    ),
    FaultKind.STALE_MODEL: Done(
        "a genuine, older bundle of the role is put in place; SIGHUP", "the same: the production rules judge it"
    ),
    FaultKind.OUT_OF_MEMORY: Done(
        "the worker is put into a control group with `spare_mb` left, and keeps `grow_mb` more at each request until "
        "the kernel kills it; needs root",
        "it grows by as much, and ends as by the kernel",
    ),
    FaultKind.CPU_STARVATION: Done(
        "busy processes: `processes`, or twice the processors where the script does not say",
        "workers wait for a processor at random, the server wakes up late",
    ),
    FaultKind.DISK_FULL: Done(
        "the state directory is a tmpfs of 64 kB, which is filled; needs root", "every write of state fails"
    ),
    FaultKind.DESCRIPTORS: Done(
        "the server may open 1,024 files, and so many idle connections are opened", "no worker can be started"
    ),
    FaultKind.DROPPED: Done("a TCP proxy before the server swallows bytes, both ways", "bytes vanish, both ways"),
    FaultKind.DELAYED: Done(
        "the proxy passes bytes on `ms` later, up to `jitter_ms` more, both ways", "the same, on virtual time"
    ),
    FaultKind.RESET: Done("the proxy resets every connection, and new ones while it lasts", "the same"),
    FaultKind.REGISTRY_DOWN: Done(
        "the port that MLFLOW_TRACKING_URI names is closed; who had asked it is counted", "nothing: nobody asks it"
    ),
    FaultKind.STORE_DOWN: Done(
        "the port that MLFLOW_S3_ENDPOINT_URL names is closed; who had asked it is counted", "nothing: nobody asks it"
    ),
    FaultKind.CLOCK_BACK: Done(
        "the wall clock that server and workers ask goes back by `ms`; not the machine's", "the same"
    ),
    FaultKind.POISON: Done(
        "`poison_requests` requests, `every_ms` apart, at which any worker dies by SIGSEGV", "the same"
    ),
    FaultKind.SERVER_DEATH: Done("SIGKILL to the server's process", "the server and all that it was given are gone"),
    FaultKind.START_FAILS: Done("the next `times` loads of the role's model fail", "the same"),
}


def tables() -> Tables:
    """Return each table by the name that its markers have."""
    return {"faults": _faults(), "settings": _settings(), "objectives": _objectives()}


def _faults() -> str:
    rows = ["| fault | figures | must be diagnosed as | in the live world | in the simulated world |",
            "|---|---|---|---|---|"]  # fmt: skip
    return "\n".join([*rows, *(_row(fault, FACTS[fault]) for fault in FaultKind)])


def _row(fault: FaultKind, facts: FaultFacts) -> str:
    figures = "<br>".join(f"`{name}={figure(usual)}`" for name, usual in facts.amounts.items())
    named = " or ".join(sorted(facts.components)) or "nothing"
    may = ", ".join(sorted(facts.may_say))
    marks = f"{' ROLE' if facts.is_aimed else ''}{' [for Nms]' if facts.can_end else ''}"
    blame = f"{named}{f' (may: {may})' if may else ''}{'; latent' if facts.is_latent else ''}"
    return f"| `{fault}{marks}` | {figures} | {blame} | {DONE[fault].live} | {DONE[fault].simulated} |"


def _settings() -> str:
    usual = Settings()
    return " ".join(f"`{one.name}={_shown(getattr(usual, one.name))}`" for one in fields(Settings))


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _objectives() -> str:
    usual = Objectives()
    asked = (f"{one.name}={getattr(usual, one.name)}" for one in fields(Objectives) if _is_asked(usual, one.name))
    others = (f"`{one.name}`" for one in fields(Objectives) if not _is_asked(usual, one.name))
    listed = ", ".join(others)
    return f"Asked of every drill, unless it says `{ANY}`: `{' '.join(asked)}`. Asked where it stands: {listed}."


def _is_asked(usual: Objectives, name: str) -> bool:
    return getattr(usual, name) is not None


def marked(name: str, table: str) -> str:
    """Return a table between its markers."""
    return f"<!-- {name}: begin (generated) -->\n\n{table}\n\n<!-- {name}: end -->"


def written(text: str, found: Tables) -> str:
    """Return a page with its tables made anew; one without the markers is left out."""
    for name, table in found.items():
        begin, end = marked(name, "\0").split("\n\n\0\n\n")
        if begin in text:
            before, _, rest = text.partition(begin)
            text = before + marked(name, table) + rest.partition(end)[2]
    return text


def main(page: Path) -> None:
    """Write the tables into a page, between their markers."""
    write_atomic(page, written(page.read_text(encoding="utf-8"), tables()).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
