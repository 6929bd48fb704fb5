"""Whole searches over a tiny model, in this process."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from answers import FOLDER, WORK, answer

from pipeline.cli import main
from pipeline.compress.candidates import load_parent, make_candidates
from pipeline.compress.schemes.storing import weight_groups
from pipeline.compress.search.fanout import LocalBackend, open_backend
from pipeline.compress.search.journal import Journal
from pipeline.compress.search.pool import Effort
from pipeline.compress.search.run import search
from pipeline.core.errors import DataError, MissingExtra
from pipeline.core.findings import FINDINGS_FILE, Findings
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import load_recipe
from pipeline.core.records import Candidates, read_record

Searchable = Callable[..., Path]
HERE = LocalBackend(workers=1)


def found() -> Findings:
    return read_record(Findings, FOLDER / FINDINGS_FILE, "quantize tiny")


@pytest.mark.slow
def test_a_search_keeps_certified_files_and_says_why(searchable: Searchable) -> None:
    searchable()
    efforts: list[Effort] = []
    made = make_candidates(load_recipe("tiny"), backend=HERE, watcher=efforts.append)
    findings = found()
    best = next(item for item in made.candidates if str(item.name) == findings.chosen)
    uniform = next(item for item in made.candidates if item.scheme == "w8")
    size = (FOLDER / best.file).stat().st_size
    assert size < (FOLDER / uniform.file).stat().st_size
    (family,) = findings.families
    assert set(best.assignment) == {group.name for group in family.groups}
    assert "searched" in best.made_by
    points = [point for point in family.front if point.candidate == findings.chosen]
    assert [(point.bytes, point.certified) for point in points] == [(size, True)]
    assert points[0].loss_high is not None
    assert points[0].loss_high <= 0.05
    assert findings.complete
    assert f"{size:,} bytes" in findings.why[0]
    assert read_record(Candidates, FOLDER / "candidates.json", "quantize tiny") == made
    assert not WORK.exists()
    assert efforts[-1].stage == "done"
    assert efforts[-1].made > 40
    assert efforts[-1].best == findings.chosen


@pytest.mark.slow
def test_divergence_and_bytes_of_the_findings_are_those_of_real_files(searchable: Searchable) -> None:
    searchable()
    make_candidates(load_recipe("tiny"), backend=HERE)
    (family,) = found().families
    assert family.front[0].divergence == 0.0
    assert [point.divergence for point in family.front] == sorted(point.divergence for point in family.front)
    assert [point.bytes for point in family.front] == sorted((point.bytes for point in family.front), reverse=True)
    for group in family.groups:
        schemes = [cost.scheme for cost in group.costs]
        assert schemes[0] is Scheme.F32
        assert len(schemes) > 3
        assert group.costs[0].divergence == 0.0
        assert min(cost.bytes for cost in group.costs) < group.costs[0].bytes or group.weight_count < 100
    assert family.ranges


@pytest.mark.slow
def test_two_processes_give_the_answer_of_one(searchable: Searchable) -> None:
    folder = searchable()
    make_candidates(load_recipe("tiny"), backend=HERE)
    alone = answer(folder)
    make_candidates(load_recipe("tiny"), backend=LocalBackend(workers=2))
    assert answer(folder) == alone


@pytest.mark.slow
def test_a_budget_that_no_smaller_file_can_meet_leaves_the_named_schemes_and_says_so(searchable: Searchable) -> None:
    searchable(budgets={"loss_max_abs": 0.0})
    made = make_candidates(load_recipe("tiny"), backend=HERE)
    assert [str(item.name) for item in made.candidates if not item.scheme.startswith("mixed")] == [
        "dense.f32",
        "dense.w8",
    ]
    findings = found()
    if findings.chosen is None:
        assert "No file better than the float models is certified" in findings.why[0]
        assert len(made.candidates) == 2
    else:  # a file whose validation answers are all decided alike loses nothing
        assert next(p for p in findings.families[0].front if p.candidate == findings.chosen).loss_high == 0.0


@pytest.mark.slow
def test_when_the_time_runs_out_the_answer_is_incomplete_but_there(searchable: Searchable) -> None:
    searchable(search={"minimize": "bytes", "seconds_max": 60, "keep": 3})
    recipe = load_recipe("tiny")
    exports = [load_parent(recipe, "dense", Format.TFLITE).export]
    now = iter(float(second) for second in itertools.count())  # each look at the clock takes a second
    result = search(recipe, exports, {}, WORK, HERE, lambda _: None, clock=lambda: next(now))
    assert not result.findings.complete
    assert "The time ran out first" in result.findings.why[-1]
    (family,) = result.findings.families
    tried = sum(len(group.costs) for group in family.groups)
    assert 0 < tried < sum(len(group.choices) for group in weight_groups(Format.TFLITE, exports[0].prepared))


@pytest.mark.slow
def test_killed_results_are_taken_from_the_journal_and_damaged_ones_made_again(
    searchable: Searchable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = searchable()
    make_candidates(load_recipe("tiny"), backend=HERE)
    undisturbed = answer(folder)
    put = Journal.put
    count = 0

    def stop_after_thirty(self: Journal, key: str, value: object) -> None:
        nonlocal count
        put(self, key, value)
        count += 1
        if count == 30:
            raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "put", stop_after_thirty)
    with pytest.raises(KeyboardInterrupt):
        make_candidates(load_recipe("tiny"), backend=HERE)
    monkeypatch.setattr(Journal, "put", put)
    assert answer(folder) == undisturbed  # what was there is whole
    journal = WORK / "journal.jsonl"
    data = journal.read_bytes()
    journal.write_bytes(data.replace(b'"bytes":', b'"bytes":1', 3)[:-20])
    efforts: list[Effort] = []
    make_candidates(load_recipe("tiny"), backend=HERE, watcher=efforts.append)
    assert answer(folder) == undisturbed
    assert efforts[-1].known == 26


@pytest.mark.slow
def test_other_rows_make_other_keys(searchable: Searchable) -> None:
    folder = searchable()

    def interrupted(effort: Effort) -> None:
        if effort.made == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_candidates(load_recipe("tiny"), backend=HERE, watcher=interrupted)
    path = folder / "data" / "calibration.npz"
    with np.load(path) as rows:
        other = {name: rows[name][::-1] for name in rows.files}
    np.savez(path, **other)
    efforts: list[Effort] = []
    make_candidates(load_recipe("tiny"), backend=HERE, watcher=efforts.append)
    assert efforts[-1].known == 0


@pytest.mark.slow
def test_validation_rows_with_labels_out_of_range_are_a_data_error_and_nothing_is_written(
    searchable: Searchable,
) -> None:
    folder = searchable()
    path = folder / "data" / "validation.npz"
    with np.load(path) as rows:
        np.savez(path, **{**{name: rows[name] for name in rows.files}, "y": np.full(len(rows["y"]), 7)})
    with pytest.raises(DataError, match="labels"):
        make_candidates(load_recipe("tiny"), backend=HERE)
    assert not FOLDER.exists()


@pytest.mark.slow
def test_command_shows_the_choice_and_the_effort(searchable: Searchable, capsys: pytest.CaptureFixture[str]) -> None:
    searchable()
    assert main(["quantize", "tiny", "--workers", "1"]) == 0
    shown = capsys.readouterr()
    assert "dense.mixed-1 is the smallest file whose accuracy loss is certified" in shown.out
    assert "real files made and measured in" in shown.err
    assert main(["quantize", "tiny", "--workers", "1", "--json"]) == 0
    names = [item["scheme"] for item in json.loads(capsys.readouterr().out)["candidates"]]
    assert "mixed-1" in names
    assert main(["quantize", "tiny", "--workers", "0"]) == 2


def test_ray_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "pipeline.compress.search.ray_cluster", raising=False)
    with pytest.raises(MissingExtra, match=r"hotspare\[cluster\]"):
        open_backend("ray", None, None)
