from hypothesis import given
from hypothesis import strategies as st

from pipeline.online.records import common_seq

EPOCHS = st.lists(st.integers(1, 9), max_size=12).map(sorted)


@given(EPOCHS, EPOCHS, EPOCHS)
def test_logs_share_exactly_what_one_leader_wrote(both: list[int], mine: list[int], theirs: list[int]) -> None:
    last = both[-1] if both else 0
    # After the common part, each went on in epochs of its own: a leader only appends.
    one = [*both, *(last + 2 * epoch for epoch in mine)]
    two = [*both, *(last + 2 * epoch + 1 for epoch in theirs)]
    ends = [{epoch: seq for seq, epoch in enumerate(log, 1)} for log in (one, two)]
    assert common_seq(*ends) == len(both)


@given(EPOCHS, EPOCHS, EPOCHS, st.integers(0, 12), st.integers(0, 12))
def test_shortened_logs_never_share_more_than_one_leader_wrote(
    both: list[int], mine: list[int], theirs: list[int], first: int, other: int
) -> None:
    last = both[-1] if both else 0
    logs = [[*both, *(last + 2 * epoch for epoch in mine)], [*both, *(last + 2 * epoch + 1 for epoch in theirs)]]
    ends = [
        {epoch: seq for seq, epoch in enumerate(log, 1) if seq >= start}
        for log, start in zip(logs, (first, other), strict=True)
    ]
    shared = common_seq(*ends)
    assert shared <= len(both)
    if max(first, other) <= len(both):  # as long as both have what the other one dropped
        assert shared == len(both)
