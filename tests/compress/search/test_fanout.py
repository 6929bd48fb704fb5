"""A process that dies takes nobody with it."""

import os
import signal
from pathlib import Path

import pytest

from pipeline.compress.search import fanout
from pipeline.compress.search.fanout import LocalBackend
from pipeline.compress.search.trial import Build, Figures, Parcel, Trial

pytestmark = pytest.mark.slow


def dies_on_some(parcel: Parcel, trial: Trial) -> Figures:
    """Stand in for an engine that aborts: always on ``always``, on ``once`` when it meets it first."""
    name = str(parcel.digest)
    met = Path(str(parcel.path)) / name
    if name == "always" or (name == "once" and not met.exists()):
        met.touch()
        os.kill(os.getpid(), signal.SIGABRT)
    return Figures(bytes=len(name))


def test_a_file_whose_process_dies_twice_is_refused_and_all_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fanout, "measure", dies_on_some)
    names = ["fine", "good", "always", "well", "once", "right", "proper", "sound", "whole"]
    backend = LocalBackend(workers=2)
    found = dict(backend.run([(Parcel(name, path=str(tmp_path)), Trial(Build())) for name in names]))
    backend.close()
    assert sorted(found) == list(range(len(names)))
    refused = [names[place] for place, figures in found.items() if figures.refused]
    assert refused == ["always"]
    assert found[4].bytes == 4
    assert "leaked" not in capfd.readouterr().err


def test_giving_up_early_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(fanout, "measure", dies_on_some)
    backend = LocalBackend(workers=2)
    results = backend.run([(Parcel(f"file{number}", path=str(tmp_path)), Trial(Build())) for number in range(40)])
    next(results)
    results.close()  # type: ignore[attr-defined]
    backend.close()
    assert not [str(one.message) for one in recwarn if "cancel" in str(one.message)]


def test_workers_have_neither_the_signing_key_nor_modules_of_the_folder_one_stands_in(monkeypatch) -> None:
    monkeypatch.setenv("HOTSPARE_SIGNING_KEY", "secret")
    executor = fanout._executor(2)
    try:
        assert executor.submit(os.getenv, "HOTSPARE_SIGNING_KEY").result() == ""
        assert executor.submit(os.getenv, "PYTHONSAFEPATH").result() == "1"
    finally:
        executor.shutdown(wait=True)
