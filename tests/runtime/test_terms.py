import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pair_world import Shelf

from pipeline.core.errors import FileAccess, SurroundingsError
from pipeline.core.names import Role
from pipeline.runtime.pair import PairState, first_state
from pipeline.runtime.settings import Settings
from pipeline.runtime.terms import BLOCK, Terms, TermsFile, read_terms, terms_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return terms_path(tmp_path / "state", "tiny")


def test_the_first_term_ever_is_one(path: Path) -> None:
    assert Terms(TermsFile(path)).last == 0


def pair_of(terms: Terms) -> PairState:
    return first_state(Settings(), 0, terms.last, terms.granted)[0]


MOMENTS = st.one_of(
    st.tuples(st.just("begin"), st.booleans()),  # a pair more, in a swap; or (True) all others are gone: a restart
    st.tuples(st.just("full"), st.booleans()),
    st.tuples(st.just("serve"), st.tuples(st.integers(0, 3), st.integers(1, 2 * BLOCK))),
)


@given(moments=st.lists(MOMENTS, max_size=12))
def test_no_two_pairs_ever_share_a_term_however_full_the_disk_and_however_many_changes(moments: list[Any]) -> None:
    shelf, owners = Shelf(), dict[int, Terms]()
    first = Terms(shelf)
    pairs = [(first, pair_of(first))]
    for what, told in moments:
        shelf.is_full = told if what == "full" else shelf.is_full
        if what == "begin" and not shelf.is_full:
            new = Terms(shelf)
            assert new.last >= max(owners, default=0)
            pairs = [*([] if told else pairs), (new, pair_of(new))]
        elif what == "serve":
            place, times = told[0] % len(pairs), told[1]
            terms, state = pairs[place]
            pairs[place] = terms, _changed(terms, state, times, owners)


def _changed(terms: Terms, state: PairState, times: int, owners: dict[int, Terms]) -> PairState:
    """Let who serves change so often, as the pair machine and its conductor do."""
    for _ in range(times):
        if state.next_term is not None:
            assert state.next_term not in owners
            assert state.next_term > state.term
            state = replace(state, term=state.next_term)
            owners[state.term] = terms
        terms.tell(state.term, Role.PRIMARY)
        state = replace(state, granted=terms.granted)
    return state


def test_a_full_disk_ends_the_terms_with_the_block_and_free_space_brings_new_ones() -> None:
    shelf = Shelf()
    terms = Terms(shelf)
    shelf.is_full = True
    state = _changed(terms, pair_of(terms), BLOCK + 5, {})
    assert (state.term, state.next_term) == (BLOCK, None)
    assert "could not be reserved, 0 are left" in (terms.tell(state.term, Role.PRIMARY) or "")
    shelf.is_full = False
    assert _changed(terms, state, 2, {}).term == BLOCK + 1


def test_in_a_swap_the_new_side_begins_above_all_that_the_old_one_uses_meanwhile() -> None:
    shelf = Shelf()
    old = Terms(shelf)
    state = _changed(old, pair_of(old), BLOCK // 2 - 1, {})
    new = Terms(shelf)
    assert _changed(old, state, BLOCK // 3, {}).term <= new.last
    assert Terms(shelf).last == new.granted.through


def test_pairs_that_begin_at_once_have_blocks_of_their_own(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        begun = list(threads.map(lambda _: Terms(TermsFile(path)).last, range(24)))
    assert sorted(begun) == [BLOCK * number for number in range(24)]


def test_who_serves_is_told_by_another_thread_and_takes_back_nothing_that_is_reserved_meanwhile(path: Path) -> None:
    old = Terms(TermsFile(path))
    with ThreadPoolExecutor(1) as thread:
        telling = [thread.submit(old.tell, number, Role.PRIMARY) for number in range(20)]
        new = [Terms(TermsFile(path)) for _ in range(20)]
        assert [one.result() for one in telling] == [None] * 20
    assert [one.last for one in new] == [BLOCK * number for number in range(1, 21)]
    assert read_terms(path).reserved_through == 21 * BLOCK


def test_who_serves_is_written_down_with_the_reservation_kept(path: Path) -> None:
    terms = Terms(TermsFile(path))
    assert terms.tell(1, Role.BACKUP) is None
    found = read_terms(path)
    assert (found.term, found.serving) == (1, Role.BACKUP)
    assert found.reserved_through == BLOCK


def test_without_a_disk_terms_go_on_until_the_block_ends_and_what_is_left_is_said(path: Path) -> None:
    terms = Terms(TermsFile(path))
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")
    assert "could not be written down" in (terms.tell(1, Role.PRIMARY) or "")
    assert "could not be reserved, 400 are left" in (terms.tell(BLOCK - 400, Role.PRIMARY) or "")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "reserved_through": -1}',
     '{"schema_version": 2, "reserved_through": 1}', '{"schema_version": 1, "reserved_through": "9"}'],
)  # fmt: skip
def test_a_damaged_file_is_not_taken_for_none(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(FileAccess, match="terms from being used twice"):
        Terms(TermsFile(path))


def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(SurroundingsError):
        Terms(TermsFile(terms_path(tmp_path / "state", "tiny")))
