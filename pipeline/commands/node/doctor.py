"""``hotspare doctor``: what of the installation, machine and project will stand in the way, told before it does."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.commands.node.doctor_installation import installation
from pipeline.commands.node.doctor_machine import machine_findings, read_machine
from pipeline.commands.node.doctor_project import project
from pipeline.core.checks import Finding, Word
from pipeline.core.clock import utc_now
from pipeline.core.errors import Unfit
from pipeline.core.printable import printable
from pipeline.core.schema import plain

EXAMPLE = "hotspare doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Look at everything, mend nothing; 44 when something keeps hotspare from working here."""
    here = Path()
    parts = {
        "installation": tuple(installation()),
        "machine": tuple(machine_findings(read_machine(here))),
        "project": tuple(project(here, utc_now())),
    }
    if args.json:
        print(json.dumps({part: [plain(one) for one in found] for part, found in parts.items()}, indent=2))
    else:
        print("\n\n".join("\n".join(_lines(part, found)) for part, found in parts.items()))
    is_fit = all(one.word is not Word.FAIL for found in parts.values() for one in found)
    return 0 if is_fit else Unfit.exit_code


def _lines(part: str, found: Sequence[Finding]) -> Iterator[str]:
    yield part
    width = max(len(one.what) for one in found)
    for one in found:
        yield f"  {one.word}  {one.what:<{width}}  {printable(one.text)}"
