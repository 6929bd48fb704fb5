"""The diagrams: docs/runtime.md shows the machine that runs, and no state is a dead end."""

from pathlib import Path

import pytest

from pipeline.runtime.members import MemberState
from pipeline.runtime.pair_diagram import BEGIN, END, Edges, diagrams, edges

PAGE = Path(__file__).parent.parent.parent / "docs/runtime.md"


def test_the_page_shows_the_machine_that_runs() -> None:
    text = PAGE.read_text()
    shown = text[text.index(BEGIN) : text.index(END) + len(END)]
    assert shown == diagrams(), "python -m pipeline.runtime.pair_diagram docs/runtime.md writes the diagrams again"


@pytest.fixture(scope="module")
def found() -> tuple[Edges, Edges]:
    return edges()


def test_every_state_is_reached_and_left(found: tuple[Edges, Edges]) -> None:
    members, serving = found
    assert {old for old, _ in members} == {new for _, new in members} == set(MemberState)
    assert {old for old, _ in serving} == {new for _, new in serving} == {"nobody", "primary", "backup"}


def test_who_serves_never_changes_without_a_reason(found: tuple[Edges, Edges]) -> None:
    _, serving = found
    assert all(serving.values())
    assert "failback" not in serving["primary", "backup"]
