from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import FileAccess, Malformed, Tampered, Untrusted
from pipeline.online.records import PAYLOAD_BYTES_MAX, Tip
from pipeline.online.update_log import UpdateLog, read_log

BASE = "ab" * 32
PAYLOADS = [b"one", b"", b"three" * 20, b"four"]
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "updates.log"
    log = UpdateLog(path, BASE)
    log.append(1, PAYLOADS[:2])
    log.append(4, PAYLOADS[2:])
    log.close()
    return path


def reopened(path: Path, data: bytes) -> list[bytes]:
    path.write_bytes(data)
    log = UpdateLog(path, BASE)
    try:
        return [record.payload for record in log.records(1)]
    finally:
        log.close()


def test_what_was_appended_is_read_again(path: Path) -> None:
    assert [(record.epoch, record.seq, record.payload) for record in read_log(path, BASE)] == [
        (1, 1, b"one"), (1, 2, b""), (4, 3, b"three" * 20), (4, 4, b"four"),
    ]  # fmt: skip


@QUICK
@given(data=st.data())
def test_a_torn_tail_is_cut_off_and_the_log_goes_on(path: Path, data: st.DataObject) -> None:
    whole = path.read_bytes()
    try:
        kept = reopened(path, whole[: data.draw(st.integers(0, len(whole)))])
        assert kept == PAYLOADS[: len(kept)]
        log = UpdateLog(path, BASE)
        log.append(5, [b"next"])
        log.close()
        assert [record.payload for record in read_log(path, BASE)] == [*kept, b"next"]
    finally:
        path.write_bytes(whole)


@QUICK
@given(data=st.data())
def test_no_byte_may_be_flipped_not_even_a_length(path: Path, data: st.DataObject) -> None:
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        with pytest.raises(Untrusted):
            reopened(path, bytes(flipped))
    finally:
        path.write_bytes(whole)


def test_bytes_after_the_last_record_are_refused(path: Path) -> None:
    with pytest.raises(Tampered):
        reopened(path, path.read_bytes() + bytes(200))


def test_the_log_of_another_base_is_refused(path: Path) -> None:
    with pytest.raises(Malformed, match="base"):
        UpdateLog(path, "cd" * 32)


def test_a_second_process_is_refused(path: Path) -> None:
    log = UpdateLog(path, BASE)
    with pytest.raises(FileAccess, match="another process"):
        UpdateLog(path, BASE)
    log.close()


def test_what_is_cut_stays_beside_the_log(path: Path) -> None:
    log = UpdateLog(path, BASE)
    log.cut(2)
    log.append(6, [b"other"])
    assert [record.payload for record in log.records(1)] == [b"one", b"", b"other"]
    assert b"four" in path.with_name("updates.log.cut-4-3-4").read_bytes()
    log.close()


def test_a_follower_stores_only_what_goes_on_from_its_log(path: Path, tmp_path: Path) -> None:
    leader, follower = UpdateLog(path, BASE), UpdateLog(tmp_path / "other.log", BASE)
    with pytest.raises(Malformed):
        follower.check(leader.encoded(2, 4))
    with pytest.raises(Malformed, match="ends early"):
        follower.check(leader.encoded(1, 4)[:-1])
    follower.append_checked(follower.check(leader.encoded(1, 4)))
    assert follower.tip == leader.tip
    leader.close()
    follower.close()


def test_dropped_records_are_gone_and_the_log_goes_on_from_the_last_of_them(path: Path) -> None:
    log = UpdateLog(path, BASE)
    before, size = log.tip_at(2), path.stat().st_size
    log.shorten(2)
    assert (log.start, log.tip_at(1), log.ends()) == (before, None, {1: 2, 4: 4})
    assert path.stat().st_size < size
    log.append(6, [b"five"])
    log.close()
    log = UpdateLog(path, BASE)
    assert log.start == before
    assert [record.payload for record in log.records(4)] == [b"four", b"five"]
    assert log.encoded(3, 5) == path.read_bytes()[-len(log.encoded(3, 5)) :]
    assert log.fitting(3, 1) == 3
    assert log.fitting(3, 1 << 20) == 5
    log.cut(3)
    assert [record.seq for record in read_log(path, BASE)] == [3]
    log.close()


def test_a_shortened_log_feeds_a_follower_that_has_what_was_dropped(path: Path, tmp_path: Path) -> None:
    leader, follower = UpdateLog(path, BASE), UpdateLog(tmp_path / "other.log", BASE)
    follower.append_checked(follower.check(leader.encoded(1, 3)))
    leader.shorten(3)
    follower.append_checked(follower.check(leader.encoded(4, 4)))
    assert follower.tip == leader.tip
    leader.close()
    follower.close()


def test_a_log_that_begins_anew_keeps_what_it_held_beside_it(path: Path) -> None:
    log = UpdateLog(path, BASE)
    log.begin(Tip(7, 90, bytes(32)))
    log.append(7, [b"ninety-one"])
    assert [(record.seq, record.payload) for record in read_log(path, BASE)] == [(91, b"ninety-one")]
    assert b"four" in path.with_name("updates.log.cut-4-1-4").read_bytes()
    log.close()


def test_a_shortened_log_is_still_its_members_alone(path: Path) -> None:
    log = UpdateLog(path, BASE)
    log.shorten(1)
    with pytest.raises(FileAccess, match="another process"):
        UpdateLog(path, BASE)
    log.close()


@QUICK
@given(data=st.data())
def test_no_byte_of_a_shortened_log_may_be_flipped(path: Path, data: st.DataObject) -> None:
    original = path.read_bytes()
    try:
        log = UpdateLog(path, BASE)
        log.shorten(3)
        log.close()
        flipped = bytearray(path.read_bytes())
        flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        with pytest.raises(Untrusted):
            reopened(path, bytes(flipped))
    finally:
        path.write_bytes(original)


def test_an_update_that_is_too_long_is_refused(path: Path) -> None:
    log = UpdateLog(path, BASE)
    with pytest.raises(Malformed, match="smaller"):
        log.append(5, [bytes(PAYLOAD_BYTES_MAX + 1)])
    assert log.tip.seq == 4
    log.close()
