from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compress.search.journal import Journal

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def reopened(path: Path) -> Journal:
    return Journal(path)


@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, max_size=6))
@settings(max_examples=40, deadline=None)
def test_what_was_put_is_there_when_it_is_opened_again(tmp_path_factory, entries: dict[str, object]) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    journal = Journal(path)
    for key, value in entries.items():
        journal.put(key, value)
    assert {key: reopened(path).get(key) for key in entries} == entries


def test_a_line_cut_by_a_kill_is_missing_and_the_next_one_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first = Journal(path)
    first.put("a", 1)
    first.put("b", {"x": 2.5})
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        after = reopened(path)
        assert after.get("b") in (None, {"x": 2.5})
        after.put("c", 3)
        again = reopened(path)
        assert again.get("c") == 3
        assert again.get("a") == after.get("a")


def test_no_flipped_bit_gives_another_value(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path).put("a", 12345)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert reopened(path).get("a") in (None, 12345)


def test_later_values_win_and_other_processes_lines_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "j"
    one, other = Journal(path), Journal(path)
    for number in range(50):
        one.put(f"one{number}", number)
        other.put(f"other{number}", number)
        one.put("shared", number)
    again = reopened(path)
    assert again.get("one49") == again.get("other49") == again.get("shared") == 49
