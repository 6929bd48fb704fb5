"""The ``hotspare`` command: picks a command by name, imports only that one, and turns errors into exit codes."""

import argparse
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline import __version__
from pipeline.core.errors import FileAccess, HotspareError, OutOfSpace, UsageError


@dataclass(frozen=True)
class Command:
    """One command: where its module is and what it does.

    The module has ``EXAMPLE: str``, ``add_arguments(parser)`` and ``run(args) -> int`` (the exit code).
    """

    module: str
    summary: str


_NODE = "pipeline.commands.node"
_BUILD = "pipeline.commands.build"

COMMANDS = {
    "verify": Command(f"{_NODE}.verify", "check a bundle's signature, bytes and channel against a trust policy"),
    "inspect": Command(f"{_NODE}.inspect", "show what a bundle says of itself, without trusting it"),
    "run": Command(f"{_NODE}.run", "verify a bundle, load it and predict from an npz file"),
    "serve": Command(f"{_NODE}.serve", "serve a primary and its hot standby: notice faults, switch, lose nothing"),
    "swap": Command(f"{_NODE}.swap", "have a running server move to new bundles, losing no request"),
    "stage": Command(f"{_NODE}.stage", "fetch a model's release from a depot: verified, only what is lacking"),
    "doctor": Command(f"{_NODE}.doctor", "tell what of installation, machine and project will stand in the way"),
    "token": Command(f"{_NODE}.token", "make a bearer token for a server; only its hash is kept"),
    "init": Command(f"{_BUILD}.init", "scaffold a project around your own trained model"),
    "compress": Command(f"{_BUILD}.compress", "find the smallest backup within a loss budget, in one shot"),
    "train": Command(f"{_BUILD}.train", "train an example model on real data"),
    "prune": Command(f"{_BUILD}.prune", "make one variant of a model and export it as float tflite and onnx"),
    "quantize": Command(f"{_BUILD}.quantize", "make every candidate of a model"),
    "score": Command(f"{_BUILD}.score", "measure every candidate"),
    "select": Command(f"{_BUILD}.select", "pick the primary and the backup"),
    "pack": Command(f"{_BUILD}.pack", "seal the primary and the backup into signed bundles"),
    "drill": Command(f"{_BUILD}.drill", "rehearse disasters on the packed pair: verdict, report, signed attestation"),
    "report": Command(f"{_BUILD}.report", "write the one-page report of a model"),
    "register": Command(f"{_BUILD}.register", "log everything to MLflow and promote by policy"),
    "keys": Command(f"{_BUILD}.keys", "make a signing key and the trust policy that pins it"),
    "promote": Command(f"{_BUILD}.promote", "make registered bundles the primary and backup of their channel"),
    "release": Command(f"{_BUILD}.release", "pack, verify, attest and archive pairs for delivery, then promote them"),
    "rollback": Command(f"{_BUILD}.rollback", "let an older pair serve again, by a new channel"),
    "revoke": Command(f"{_BUILD}.revoke", "say what no node loads any more: bundles, keys"),
    "reconcile": Command(f"{_BUILD}.reconcile", "find and mend what channel, registry and depot disagree about"),
    "follow": Command(f"{_BUILD}.follow", "notice moved aliases, rebuild what has no backup, promote, tell the lag"),
    "retire": Command(f"{_BUILD}.retire", "remove from the depot the releases that nobody goes back to"),
    "status": Command(f"{_BUILD}.status", "show registry, channel, depot and nodes, and who is behind"),
    "learn": Command(f"{_BUILD}.learn", "be a member of a pair whose model goes on learning: log, checkpoints"),
    "schema": Command(f"{_BUILD}.schema", "print the JSON schema of recipes, for editors"),
}


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: hotspare COMMAND ...",
            "",
            "A trained model in; a measured, signed primary and backup out.",
            "",
            "commands:",
            *lines,
            "",
            "hotspare COMMAND --help shows a command's arguments and an example.",
        ]
    )


def _parser(name: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"hotspare {name}",
        description=f"{COMMANDS[name].summary[0].upper()}{COMMANDS[name].summary[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _dispatch(name: str, rest: Sequence[str]) -> int:
    if name not in COMMANDS:
        raise UsageError(f"There is no command {name!r}; {_meant(name)}")
    module = importlib.import_module(COMMANDS[name].module)
    parser = _parser(name)
    parser.epilog = f"example:\n  {module.EXAMPLE}"
    module.add_arguments(parser)
    return int(module.run(parser.parse_args(rest)))


def _meant(name: str) -> str:
    import difflib  # for a slip of the fingers alone

    near = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (see ``core/errors.py``)."""
    _spell_what_the_terminal_lacks()
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = " ".join(["hotspare", *arguments[:1]])
    try:
        return _run_and_flush(arguments)
    except HotspareError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return error.exit_code
    except ImportError as error:
        return _not_imported(command, error)
    except KeyboardInterrupt:
        return _interrupted(command)
    except BrokenPipeError:
        _drop_output()
        return 141
    except OSError as error:
        if error.filename is None:
            _drop_output()
        place = error.filename or "its output"
        print(f"{command}: {place} cannot be used: {error.strerror or error}.", file=sys.stderr)
        return OutOfSpace.exit_code if error.errno == errno.ENOSPC else FileAccess.exit_code


def _run_and_flush(arguments: Sequence[str]) -> int:
    try:
        return _run(arguments)
    finally:
        if sys.stdout is not None:  # it is None when the caller closed it
            sys.stdout.flush()  # a closed pipe or a full disk shows here, where it still has an exit code


def _run(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else UsageError.exit_code
    if arguments[0] in ("-V", "--version"):
        print(f"hotspare {__version__}")
        return 0
    return _dispatch(arguments[0], arguments[1:])


def _spell_what_the_terminal_lacks() -> None:
    """Have output without a place in the terminal's encoding, as file names that are no UTF-8, written as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def _interrupted(command: str) -> int:
    print(f"{command}: interrupted; nothing is half-written, run it again.", file=sys.stderr)
    return 130


def _drop_output() -> None:
    """Send what is still unwritten nowhere, so that it fails no second time at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _not_imported(command: str, error: ImportError) -> int:
    if isinstance(error.__cause__, KeyboardInterrupt):  # as compiled modules tell of Ctrl-C
        return _interrupted(command)
    if not isinstance(error, ModuleNotFoundError) or error.name is None or error.name.startswith("pipeline"):
        raise error
    print(
        f"{command}: the package {error.name!r} is not installed; "
        "this command belongs to the build side: pip install 'hotspare[build,registry]'.",
        file=sys.stderr,
    )
    return 42


if __name__ == "__main__":
    sys.exit(main())
