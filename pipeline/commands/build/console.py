"""What build commands show people: tables, progress on a terminal, none in a pipe."""

import json
from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from pipeline.core.printable import printable_lines
from pipeline.core.schema import plain

_FIGURE_WORDS_MAX = 2  # a number and its unit


def show_json(value: object) -> None:
    """Print plain data or dataclasses as JSON on standard output."""
    print(json.dumps(plain(value), indent=2, sort_keys=True, ensure_ascii=False))


def show_table(title: str, headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: names in the first column and sentences to the left, figures to the right.

    Cells may quote anybody; what could steer a terminal is spelled out.
    """
    cells = [tuple(row) for row in rows]
    table = Table(title=Text(title, style="table.title"), title_justify="left")
    for index, header in enumerate(headers):
        column = [cell for row in cells for cell in row[index : index + 1]]
        is_left = index == 0 or any(len(cell.split()) > _FIGURE_WORDS_MAX for cell in column)
        table.add_column(Text(header), justify="left" if is_left else "right", no_wrap=index == 0)
    for row in cells:
        table.add_row(*(Text(printable_lines(cell)) for cell in row))  # a name such as x[/b] is no markup
    Console(width=None if Console().is_terminal else 160).print(table)


T = TypeVar("T")


def progress(items: Sequence[T], doing: str) -> Iterable[T]:
    """Iterate with a progress bar on standard error when it is a terminal."""
    console = Console(stderr=True)
    return track(items, description=doing, console=console, disable=not console.is_terminal)
