"""A load generator beside the drill: a process of its own, so that neither's work delays the other."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.canonical import readable_json
from pipeline.core.environment import for_children
from pipeline.core.errors import InternalError
from pipeline.core.files import write_atomic
from pipeline.core.schema import plain
from pipeline.drill.live.plan import Plan

PLAN_FILE = "plan.json"
RECORD_FILE = "record.json"


@contextlib.contextmanager
def generating(plan: Plan, folder: Path) -> Iterator[float]:
    """Run a load generator that writes ``record.json``; yields when it began, ends when every request is settled.

    Raises InternalError when it does not start or fails. After an exception inside, it is killed.
    """
    write_atomic(folder / PLAN_FILE, readable_json(plain(plan)))
    module = "pipeline.drill.live.load"
    command = [sys.executable, "-m", module, str(folder / PLAN_FILE), str(folder / RECORD_FILE)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, env=for_children()
    ) as process:
        try:
            _expect(process, "ready")
            yield float(_said(process, "go").split()[1])
            if process.wait() != 0:
                raise InternalError("The load generator failed; run it alone with the same plan.")
        finally:
            process.kill()


def _expect(process: "subprocess.Popen[str]", word: str) -> None:
    said = process.stdout.readline().strip() if process.stdout else ""
    if said != word:
        raise InternalError("The load generator did not start; run it alone with the same plan.")


def _said(process: "subprocess.Popen[str]", word: str) -> str:
    if process.stdin is None or process.stdout is None:
        raise InternalError("The load generator cannot be spoken to; this is a bug.")
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    said = process.stdout.readline()
    if not said.startswith("began "):
        raise InternalError("The load generator ended before it began; run it alone with the same plan.")
    return said
