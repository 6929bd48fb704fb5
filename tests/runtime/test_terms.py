import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import FileAccess, SurroundingsError
from pipeline.core.names import Role
from pipeline.runtime.terms import BLOCK, Terms, TermsFile, read_terms, terms_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return terms_path(tmp_path / "state", "tiny")


def test_the_first_term_ever_is_one(path: Path) -> None:
    assert Terms(TermsFile(path)).last == 0


@given(lives=st.lists(st.integers(0, 3 * BLOCK), min_size=1, max_size=5))
def test_no_term_is_used_twice_over_restarts_however_many_a_life_used(tmp_path_factory, lives: list[int]) -> None:
    path = terms_path(tmp_path_factory.mktemp("terms"), "tiny")
    highest = 0
    for changes in lives:
        terms = Terms(TermsFile(path))
        assert terms.last >= highest
        for term in range(terms.last + 1, terms.last + changes + 1):
            assert terms.use(term) is None
            highest = term
        assert read_terms(path).reserved_through >= highest


def test_in_a_swap_neither_side_takes_back_what_the_other_reserved(path: Path) -> None:
    old = Terms(TermsFile(path))
    old.use(old.last + 1)
    new = Terms(TermsFile(path))
    assert new.last > old.last
    new.use(new.last + 1)
    old.tell(old.last, Role.PRIMARY)
    old.use(old.last + 1)
    assert Terms(TermsFile(path)).last > new.last


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
    terms.use(1)
    assert terms.tell(1, Role.BACKUP) is None
    found = read_terms(path)
    assert (found.term, found.serving) == (1, Role.BACKUP)
    assert found.reserved_through == BLOCK


def test_without_a_disk_terms_go_on_until_the_block_ends_and_each_use_near_it_says_so(path: Path) -> None:
    terms = Terms(TermsFile(path))
    shutil.rmtree(path.parent)
    path.parent.write_text("in the way")
    assert terms.use(1) is None
    assert "could not be written down" in (terms.tell(1, Role.PRIMARY) or "")
    assert "could not be reserved, 400 are left" in (terms.use(BLOCK - 400) or "")


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
