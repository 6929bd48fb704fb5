"""What dvc tells, in words: all that differs up to ``pack``, without the key and the bundles it signed."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.build.pins import stale

TEXT = st.text(max_size=12)
PLACES = st.recursive(st.dictionaries(TEXT, TEXT, max_size=3), lambda inner: st.dictionaries(TEXT, inner, max_size=3))
CHANGES = st.lists(TEXT | st.dictionaries(st.sampled_from(["changed deps", "changed outs"]), PLACES, max_size=2))


def test_nothing_changed_is_nothing_told() -> None:
    assert stale({}) == ()


def test_a_stage_is_told_once_with_all_that_differs() -> None:
    status = {
        "score@tiny": [
            {"changed deps": {"artifacts/candidates/tiny": "modified", "recipes/models/tiny.yaml": {"seed": "new"}}},
            {"changed outs": {"artifacts/scorecards/tiny": "deleted"}},
            "changed command",
        ]
    }
    (told,) = stale(status)
    assert told == (
        "score@tiny: artifacts/candidates/tiny is modified, artifacts/scorecards/tiny is deleted, changed command, "
        "recipes/models/tiny.yaml seed is new"
    )


def test_another_key_and_the_bundles_of_another_key_are_of_no_weight() -> None:
    status = {
        "pack@tiny": [
            {"changed deps": {"artifacts/keys/signing.pub": "modified"}},
            {
                "changed outs": {
                    "artifacts/bundles/tiny-primary": "deleted",
                    "artifacts/bundles/tiny-backup": "modified",
                }
            },
        ]
    }
    assert stale(status) == ()


def test_what_else_pack_depends_on_is_of_weight() -> None:
    status = {"pack@tiny": [{"changed deps": {"artifacts/keys/signing.pub": "deleted", "pipeline/seal": "modified"}}]}
    assert stale(status) == ("pack@tiny: pipeline/seal is modified",)


def test_an_earlier_stages_missing_output_is_of_weight() -> None:
    assert stale({"select@tiny": [{"changed outs": {"artifacts/selections/tiny": "not in cache"}}]})


@given(st.dictionaries(TEXT, CHANGES, max_size=4))
def test_whatever_dvc_tells_each_stage_is_at_most_one_line(status: dict) -> None:
    told = stale(status)
    assert len(told) <= len(status)
    assert all("\n" not in line for line in told)
