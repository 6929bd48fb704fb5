"""Ends what a drill has made when the drill itself was killed: ``python -m pipeline.drill.live.leash ROOM ...``.

A server that answers wrongly because it was told to must not outlive whoever told it. A process of its own waits for
the end of a pipe that the drill alone holds; a drill that ends in order says so first.
"""

import argparse
import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core.environment import for_children
from pipeline.drill.live.processes import end_all, standing_in

_OVER = "over"


@contextlib.contextmanager
def leashed(room: Path, mount: Path | None = None, group: Path | None = None) -> Iterator[None]:
    """See to it that no process standing in ``room``, no mount and no group stays, even when this process is killed."""
    command = [sys.executable, "-m", "pipeline.drill.live.leash", str(room)]
    command += [] if mount is None else ["--mount", str(mount)]
    command += [] if group is None else ["--group", str(group)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, text=True, start_new_session=True, env=for_children(), cwd="/"
    ) as process:
        try:
            yield
        finally:
            process.communicate(f"{_OVER}\n")


def main(arguments: Sequence[str]) -> None:
    """Wait; then end everything, unless the drill has done so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", type=Path)
    parser.add_argument("--mount", type=Path)
    parser.add_argument("--group", type=Path)
    args = parser.parse_args(arguments)
    if sys.stdin.readline().strip() == _OVER:
        return
    end_all(lambda: standing_in(args.room))
    if args.mount is not None:
        subprocess.run(["umount", "--lazy", str(args.mount)], check=False, env=for_children())
    if args.group is not None:
        with contextlib.suppress(OSError):
            args.group.rmdir()


if __name__ == "__main__":
    main(sys.argv[1:])
