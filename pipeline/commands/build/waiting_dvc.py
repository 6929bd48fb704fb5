"""``python -m pipeline.commands.build.waiting_dvc``: a dvc that has its libraries before it has anything to do.

It reads one line, a JSON list of commands (lists of arguments), and runs them in their order up to the first that
fails. Where no line comes, whoever started it is gone.
"""

import json
import os
import sys

# What dvc imports by itself only once it runs a stage.
import dvc.commands.commit
import dvc.commands.repro
import dvc.ignore
import dvc.lock
import dvc.repo.reproduce
import dvc.scm
import dvc.stage.run  # noqa: F401
from dvc.cli import main


def run() -> int:
    """Wait for the commands and run them; returns the exit code of the last that ran."""
    line = sys.stdin.readline()
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    for arguments in json.loads(line) if line else ():
        code = int(main(arguments))
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(run())
