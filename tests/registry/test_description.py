from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.registry.description import describe_build, describe_candidate, describe_model, describe_version, fitting
from pipeline.registry.record import Build, version_draft
from pipeline.registry.store import THIS_RUN


def _rows(text: str) -> dict[str, list[str]]:
    """Return the cells of a Markdown text's table rows, by their first."""
    cells = [
        [cell.strip().removeprefix("&emsp;") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:1] == "|"
    ]
    return {first: others for first, *others in cells}


def _version(build: Build, **tags: str) -> str:
    kept = {**version_draft(build, build.backup, "r1", "c1").tags, "bundle_id": build.backup.bundle_id, **tags}
    return describe_version(build.backup.card, 1234, "r1", kept, ("loss.svg",))


def test_the_model_page_says_what_people_ask_first(build: Build) -> None:
    text = describe_model(build.recipe, build.cards, build.selected, "r1", ("loss.svg",))
    for part in (
        "Credit default risk",
        "Ranks card holders",
        "[latest build](#/runs/r1)",
        f'mlflow.pyfunc.load_model("models:/{build.model}@backup")',
        f"mlflow models serve -m models:/{build.model}@backup",
        "![loss.svg](get-artifact?path=plots%2Floss.svg&run_uuid=r1)",
        "one bank in 2005",
        "CC-BY-4.0",
    ):
        assert part in text
    rows = _rows(text)
    assert rows[""] == ["primary `dense.f32`", "backup `p50.w8`"]
    assert rows["AUC, validation rows"] == ["0.7840, the float model's 0.7850"] * 2
    assert rows["file"][1] == "300 bytes, 30% of the float model's"


def test_only_the_chosen_two_are_told_on_the_build(build: Build) -> None:
    text = describe_build(build.recipe, build.cards, build.selected)
    assert "p50.w8" in text
    assert "dense.w8" not in text
    assert THIS_RUN not in text


def test_the_locked_rows_of_one_of_the_pair_are_not_taken_for_the_others(build: Build) -> None:
    locked = {role: replace(score, split="test") for role, score in build.selected.locked_test.items()}
    text = describe_build(build.recipe, build.cards, replace(build.selected, locked_test=locked))
    assert _rows(text)["AUC, locked test rows"] == ["", "0.7840, the float model's 0.7850"]


def test_a_candidate_that_loses_nothing_has_no_interval_to_tell(build: Build) -> None:
    task = replace(build.primary.card.task, loss_abs=0.0, loss_low=0.0, loss_high=0.0)
    text = describe_candidate(replace(build.primary.card, task=task), None)
    assert "answers as the float model does" in text
    assert "interval" not in text


def test_warnings_of_the_locked_rows_are_told(build: Build) -> None:
    warned = replace(build.selected, warnings=("the backup loses more on the locked rows",))
    assert "**Warning.** the backup loses more" in describe_build(build.recipe, build.cards, warned)


def test_a_candidate_without_a_verdict_is_not_called_chosen(build: Build) -> None:
    assert "not judged" in describe_candidate(build.cards[0], None)


def test_a_candidate_says_why_it_won_and_what_it_measured(build: Build) -> None:
    text = describe_candidate(build.cards[0], replace(build.selected.verdicts[0], role=build.primary.role))
    assert "**chosen as primary**" in text
    assert "- within every budget" in text
    assert _rows(text)["memory"] == ["60 MB"]


def test_a_version_says_where_it_comes_from(build: Build) -> None:
    rows = _rows(_version(build, dvc_lock_sha256="d" * 64))
    assert {name: cells[0] for name, cells in rows.items() if name in ("bundle", "build", "recipe", "git commit")} == {
        "bundle": f"`{build.backup.bundle_id}`",
        "build": "[r1](#/runs/r1)",
        "recipe": f"`{build.recipe.build_sha256()}`",
        "git commit": "`c0ffee`",
    }
    assert rows["candidate's run"] == ["[c1](#/runs/c1)"]
    assert rows["made from"] == [f"`dense.f32.tflite`, SHA-256 `{'dd' * 32}`"]
    assert rows["dvc.lock"] == [f"`{'d' * 64}`"]


def test_a_version_tells_the_verdict_of_its_drill_or_that_there_was_none(build: Build) -> None:
    assert _rows(_version(build))["drill"] == ["none of this pair yet"]
    tags = {
        "drill_verdict": "failed",
        "drill_world": "live",
        "drill_at": "2026-11-01T00:00:00Z",
        "drill_rto_ms_p95": "31.5",
        "drill_run_id": "d1",
    }
    told = _rows(_version(build, **tags))["drill"][0]
    assert "**failed** at 2026-11-01T00:00:00Z in the live world" in told
    assert "[d1](#/runs/d1)" in told


def test_what_nobody_knows_of_a_version_has_no_row(build: Build) -> None:
    rows = _rows(describe_version(build.backup.card, 1234, "r1", {}))
    assert {"dvc.lock", "git commit", "recipe", "made from"}.isdisjoint(rows)


@given(st.text(alphabet="a \n|é€", max_size=40), st.integers(2, 60))
def test_a_text_that_the_database_cannot_keep_is_cut_and_says_so(text: str, length_max: int) -> None:
    kept = fitting(text, length_max)
    assert len(kept) <= length_max
    assert kept == text or (kept.endswith("\n…") and text.startswith(kept.removesuffix("\n…")))
