import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.bundle.canaries import CANARIES_FILE, CanaryPlan, Watched, read_canaries, repeat_tolerance
from pipeline.bundle.golden import check_golden, read_golden
from pipeline.bundle.node import this_node
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.core.canonical import readable_json
from pipeline.core.errors import Malformed
from pipeline.core.schema import plain
from pipeline.engines.open import open_session

PLAN = CanaryPlan(1, (0, 3), (Watched("w", "MATMUL", 64, (3,), 6, 2, 2, 5, 5),), (), (), "a test")
GOLDEN_ROWS = 4


def _read(**changes: object) -> CanaryPlan | None:
    return read_canaries({CANARIES_FILE: json.dumps({**plain(PLAN), **changes}).encode()}, GOLDEN_ROWS)


def test_what_was_written_is_read_back() -> None:
    assert read_canaries({CANARIES_FILE: readable_json(plain(PLAN))}, GOLDEN_ROWS) == PLAN


def test_a_bundle_without_a_plan_has_none() -> None:
    assert read_canaries({}, GOLDEN_ROWS) is None


@pytest.mark.parametrize(
    "rows", [[4], [0, -1], [2**70], [0, 0], [], list(range(9)), [0, "3"], [True], [1.0], "0", None]
)
def test_rows_that_are_no_golden_rows_are_malformed(rows: object) -> None:
    with pytest.raises(Malformed, match="row"):
        _read(rows=rows, watched=[])


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"schema_version": 2},
        {"schema_version": True},
        {"watched": [{**plain(PLAN.watched[0]), "rows": [2]}]},
        {"watched": [{**plain(PLAN.watched[0]), "bytes": -1}]},
        {"watched": [{**plain(PLAN.watched[0]), "more": 1}]},
        {"watched": [[]]},
        {"tables": [{"constant": "t", "entries": 0, "seen_ratio": 0.5}]},
        {"tables": [{"constant": "t", "entries": 9, "seen_ratio": 1.5}]},
        {"uncovered": [1]},
        {"method": None},
    ],
)
def test_anything_beside_the_format_is_malformed(changes: dict[str, object]) -> None:
    with pytest.raises(Malformed, match=r"canaries\.json"):
        _read(**changes)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"rows": NaN}', b"[" * 10**5])
def test_bytes_that_are_no_json_object_are_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        read_canaries({CANARIES_FILE: data}, GOLDEN_ROWS)


@pytest.mark.parametrize(
    ("golden", "largest", "expected"), [(0.25, 1.0, 1e-5), (1e-5, 1.0, 1e-5), (1e-5, 0.0, 1e-5), (1e-5, 0.5, 5e-6)]
)
def test_a_model_repeats_itself_more_closely_than_golden_tolerance(
    golden: float, largest: float, expected: float
) -> None:
    assert repeat_tolerance(golden, largest) == pytest.approx(expected)


@pytest.mark.parametrize("role", ["primary", "backup"])
def test_a_bundle_of_before_canaries_stays_valid(root: Path, role: str) -> None:
    folder = root / "tests/fixtures/bundles/before-canaries"
    # Made for x86_64 as the recipe says; what it proves holds anywhere.
    node = replace(this_node(), arch="x86_64")
    bundle = verify_bundle(folder / f"tiny-{role}", load_policy(folder / "trust.yaml"), datetime.now(UTC), node=node)
    entry = bundle.manifest.entrypoint
    session = open_session(entry.format, bundle.files[entry.path])
    golden = read_golden(bundle.files)
    check_golden(golden, session.run)
    assert golden.tolerances.from_parent is None
    assert read_canaries(bundle.files, 32) is None
