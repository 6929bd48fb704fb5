from pathlib import Path

from pipeline.core.findings import Findings
from pipeline.core.recipe import Minimize
from pipeline.core.records import read_record, write_record


def test_what_a_search_without_a_choice_found_is_read_back(tmp_path: Path) -> None:
    findings = Findings("m", Minimize.BYTES, 0.01, 0.9, 1, (), ("no file is certified",), complete=False)

    write_record(tmp_path / "search.json", findings)

    assert read_record(Findings, tmp_path / "search.json", "quantize m") == findings
