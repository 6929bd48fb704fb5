"""Standard output that closed early or is full ends in an exit code, never in a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.commands.build.console import show_table

COMMANDS = [["--help"], ["verify", "--help"], ["schema"]]


def hotspare(arguments: list[str], stdout: int) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=buffered, check=False)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_pipe_that_closed_early_is_nothing_to_talk_about(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = hotspare(arguments, writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", COMMANDS)
def test_output_that_cannot_be_written_is_one_sentence(arguments: list[str]) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = hotspare(arguments, full)
    os.close(full)
    assert done.returncode == 41
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_a_table_puts_sentences_to_the_left_and_figures_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("T", ["name", "finding", "ms"], [["a", "it is well enough", "7 ms"], ["b", "no", "1,234 ms"]])
    last = [line for line in capsys.readouterr().out.splitlines() if "b" in line][-1]
    name, finding, figure = (cell for cell in last.split("│") if cell)
    assert (name.strip(), finding.strip(), figure.strip()) == ("b", "no", "1,234 ms")
    assert finding.startswith(" no ")
    assert figure == " 1,234 ms "
