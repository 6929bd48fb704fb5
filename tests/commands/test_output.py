"""Standard output that closed early, is full or knows few letters ends in an exit code, never in a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.commands.build.console import show_table

COMMANDS = [["--help"], ["verify", "--help"], ["schema"]]


def hotspare(arguments: list[str], stdout: int, **changes: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | changes
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


@pytest.mark.parametrize("encoding", ["ascii:strict", "utf-8:strict"])
def test_a_name_that_the_terminal_cannot_show_is_spelled_out(tmp_path: Path, encoding: str) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xc3\xbc")
    done = hotspare(["keys", "new", folder], subprocess.PIPE, PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\udcff" in done.stdout
    assert Path(folder, "signing.pub").exists()


def test_ctrl_c_while_a_compiled_module_is_imported_is_ctrl_c(capsys, monkeypatch) -> None:
    def interrupted(name: str) -> None:
        raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.setattr("importlib.import_module", interrupted)
    assert main(["verify"]) == 130
    assert capsys.readouterr().err == "hotspare verify: interrupted; nothing is half-written, run it again.\n"


def test_a_slip_of_the_fingers_is_understood(capsys) -> None:
    assert main(["slect"]) == 2
    assert capsys.readouterr().err == "hotspare slect: There is no command 'slect'; did you mean 'select'?\n"
    assert main(["xyzzy"]) == 2
    assert "the commands are verify, " in capsys.readouterr().err


def test_a_table_puts_sentences_to_the_left_and_figures_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    show_table("T", ["name", "finding", "ms"], [["a", "it is well enough", "7 ms"], ["b", "no", "1,234 ms"]])
    last = [line for line in capsys.readouterr().out.splitlines() if "b" in line][-1]
    name, finding, figure = (cell for cell in last.split("│") if cell)
    assert (name.strip(), finding.strip(), figure.strip()) == ("b", "no", "1,234 ms")
    assert finding.startswith(" no ")
    assert figure == " 1,234 ms "
