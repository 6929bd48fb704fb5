"""Half of a dvc.lock is told for what it is: held against the schema of dvc itself."""

from pathlib import Path

import pytest

from pipeline.commands.node.doctor_dvc import is_whole_lock

LOCK = """\
schema: '2.0'
stages:
  prune@toy:
    cmd: hotspare prune
      toy
    deps:
    - path: pipeline/model
      hash: md5
      md5: 22f5e318bdf37edbc785d8e85539df78.dir
      size: 32691
      nfiles: 9
    params:
      params.yaml:
        seed: 7
    outs:
    - path: artifacts/pruned/toy
      hash: md5
      md5: 1b3f5e318bdf37edbc785d8e85539df7.dir
      size: 120
      nfiles: 2
  report:
    cmd: hotspare report
    outs:
    - path: artifacts/report
      hash: md5
      md5: b026324c6904b2a9cb4b88d6d61c81d1
      size: 2
"""


COMMITTED = Path(__file__).parents[2] / "dvc.lock"


def dvc_starts_over(text: str) -> bool:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from dvc.utils.serialize import ParseError, parse_yaml
    from voluptuous import Invalid

    try:
        COMPILED_LOCKFILE_SCHEMA(parse_yaml(text, "dvc.lock"))
    except (ParseError, Invalid):
        return False
    return True


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "dvc.lock"


def test_a_lock_cut_anywhere_passes_for_whole_only_where_dvc_starts_over_it(lock: Path) -> None:
    passed = 0
    for end in range(len(LOCK)):
        lock.unlink(missing_ok=True)  # written over, a file waits for the disk
        lock.write_text(LOCK[:end])
        if is_whole_lock(lock):
            passed += 1
            assert dvc_starts_over(LOCK[:end]), LOCK[:end]
    assert passed >= LOCK.count("\n") // 2, "most cuts behind a line are what dvc starts over"


@pytest.mark.parametrize("text", [LOCK, COMMITTED.read_text(), "schema: '2.0'\nstages: {}\n"])
def test_a_whole_lock_passes(lock: Path, text: str) -> None:
    lock.write_text(text)
    assert dvc_starts_over(text)
    assert is_whole_lock(lock)


def test_without_a_lock_dvc_starts_afresh_and_what_is_no_text_is_none(lock: Path) -> None:
    assert is_whole_lock(lock)
    lock.write_bytes(b"schema: \xff")
    assert not is_whole_lock(lock)
    lock.unlink()
    lock.mkdir()
    assert not is_whole_lock(lock)
