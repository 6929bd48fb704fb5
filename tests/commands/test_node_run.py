import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sealed import NOW, Sealed, sealed, tiny_channel, tiny_inputs, tiny_payload, tiny_rows, write_channel

from pipeline.bundle.channel import BundleRef
from pipeline.bundle.floor import floor_path, read_floor
from pipeline.bundle.policy import load_policy
from pipeline.bundle.statement import bundle_id
from pipeline.bundle.verify import read_channel
from pipeline.cli import main
from pipeline.commands.node import paired
from pipeline.commands.node import run as node_run
from pipeline.core.canonical import sha256_hex
from pipeline.core.clock import to_text
from pipeline.core.errors import Expired
from pipeline.core.names import Format, Scheme
from pipeline.core.tensors import encode_npz
from pipeline.seal.payload import build_payload
from pipeline.seal.signing import seal_bundle


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("template"))


@pytest.fixture
def pair(template: Sealed, tmp_path: Path) -> Sealed:
    shutil.copytree(template.folder, tmp_path / "pair")
    return Sealed(tmp_path / "pair", template.key)


def predict(pair: Sealed, *more: str, rows: dict[str, np.ndarray] | None = None, bundle: Path | None = None) -> int:
    np.savez(pair.folder / "rows.npz", **(tiny_rows(2500) if rows is None else rows))
    places = ["--input", str(pair.folder / "rows.npz"), "--output", str(pair.folder / "answers.npz")]
    return main(["run", str(bundle or pair.backup), "--trust", str(pair.trust), *places, *more])


def answers(pair: Sealed) -> np.ndarray:
    return np.load(pair.folder / "answers.npz")["probability"]


def truth(rows: int) -> np.ndarray:
    x = tiny_rows(rows)["features"]
    return x[:, :1] * x[:, 1:2] + x[:, 2:3] > 0


@pytest.mark.parametrize("role", ["primary", "backup"])
def test_it_answers_every_row(pair: Sealed, capsys, role: str) -> None:
    assert predict(pair, bundle=pair.folder / f"tiny-{role}") == 0
    assert answers(pair).shape == (2500, 1)
    assert np.mean((answers(pair) > 0.5) == truth(2500)) > 0.95
    assert "ready" in capsys.readouterr().out


def test_a_split_file_with_x_labels_and_groups_is_taken_as_it_is(pair: Sealed) -> None:
    rows = {"x": tiny_rows(9)["features"], "y": np.zeros(9), "group": np.zeros(9, np.int32)}
    assert predict(pair, rows=rows) == 0
    assert answers(pair).shape == (9, 1)


def test_numbers_as_numpy_writes_them_by_default_are_taken(pair: Sealed) -> None:
    assert predict(pair, rows={"features": tiny_rows(5)["features"].astype(np.float64)}) == 0


def test_json_is_for_machines(pair: Sealed, capsys) -> None:
    assert predict(pair, "--json", "--channel", str(pair.channel)) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["role"]) == (2500, "backup")
    assert told["ready_ms"] > 0


def test_a_channel_that_was_served_becomes_the_floor(pair: Sealed) -> None:
    assert predict(pair, "--channel", str(pair.channel)) == 0
    assert read_floor(floor_path(pair.folder / "state", "tiny")) == tiny_channel().floor


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({}, "'features' is missing"),
        ({"features": np.full((3, 8), 1e300)}, "beyond float32"),
        ({"features": np.zeros((3, 8), complex)}, "complex128"),
        ({"features": np.zeros((3, 7), np.float32)}, "(n, 8)"),
        ({"features": np.full((3, 8), np.nan, np.float32)}, "3 row(s) with NaN"),
        ({"features": np.zeros((0, 8), np.float32)}, "no rows"),
        ({**tiny_rows(3), "more": np.zeros(3)}, "'more' is not an input"),
        ({"features": np.array([["a"] * 8])}, "where the model takes"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(pair: Sealed, capsys, rows, said: str) -> None:
    assert predict(pair, rows=rows) == 11
    told = capsys.readouterr().err
    assert said in told
    assert "rows.npz: " in told
    assert told.count("\n") == 1
    assert not (pair.folder / "answers.npz").exists()


def test_a_bit_that_flipped_in_the_input_file_is_noticed(pair: Sealed, capsys) -> None:
    rows = pair.folder / "flipped.npz"
    np.savez(rows, **tiny_rows(100))
    data = bytearray(rows.read_bytes())
    data[1000] ^= 1
    rows.write_bytes(data)
    arguments = ["--input", str(rows), "--output", str(pair.folder / "out.npz")]
    assert main(["run", str(pair.backup), "--trust", str(pair.trust), *arguments]) == 11
    assert "do not fit its checksum" in capsys.readouterr().err


def test_a_missing_input_file_is_named(pair: Sealed, capsys) -> None:
    arguments = ["--input", str(pair.folder / "none.npz"), "--output", str(pair.folder / "out.npz")]
    assert main(["run", str(pair.backup), "--trust", str(pair.trust), *arguments]) == 11
    assert "none.npz" in capsys.readouterr().err


def test_a_tampered_bundle_answers_nothing_and_moves_no_floor(pair: Sealed) -> None:
    path = pair.backup / "payload/golden/outputs.npz"
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    assert predict(pair, "--channel", str(pair.channel)) == 30
    assert not (pair.folder / "answers.npz").exists()
    assert read_floor(floor_path(pair.folder / "state", "tiny")) is None


def reseal(pair: Sealed, **changes: bytes) -> None:
    names = {"golden": "golden/outputs.npz", "io": "io.json", "model": "model/model.tflite", "manifest": "bundle.json"}
    files = {**tiny_payload(Format.TFLITE), **{names[key]: data for key, data in changes.items()}}
    seal_bundle(pair.backup, files, pair.key)


def test_a_model_that_answers_otherwise_than_when_it_was_packed_is_refused(pair: Sealed, capsys) -> None:
    reseal(pair, golden=encode_npz({"probability": np.full((32, 1), 0.5, np.float32)}))
    assert predict(pair) == 37
    assert "does not answer as when it was packed" in capsys.readouterr().err
    assert not (pair.folder / "answers.npz").exists()


def test_a_signed_model_that_cannot_be_loaded_is_a_model_error(pair: Sealed) -> None:
    reseal(pair, model=b"????TFL3" + bytes(100))
    assert predict(pair) == 12


def test_an_io_contract_of_other_tensors_is_malformed(pair: Sealed) -> None:
    payload = tiny_payload(Format.TFLITE)
    io = payload["io.json"].replace(b"features", b"values")
    manifest = json.loads(payload["bundle.json"]) | {"io_contract_sha256": sha256_hex(io)}
    reseal(pair, io=io, manifest=json.dumps(manifest).encode())
    assert predict(pair) == 32


def test_a_folder_is_neither_read_nor_written_as_a_file(pair: Sealed, capsys) -> None:
    start = ["run", str(pair.backup), "--trust", str(pair.trust)]
    assert main([*start, "--input", str(pair.folder), "--output", str(pair.folder / "out.npz")]) == 11
    assert "is not a file" in capsys.readouterr().err
    np.savez(pair.folder / "rows.npz", **tiny_rows(3))
    for folder in (".", str(pair.folder)):
        assert main([*start, "--input", str(pair.folder / "rows.npz"), "--output", folder]) == 43
        assert f"{folder} is a folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_tflite(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    """A pair of LiteRT models and the channel that names them."""
    made = sealed(tmp_path_factory.mktemp("two"))
    given = tiny_inputs(Format.TFLITE)
    payload = build_payload(replace(given, record=replace(given.record, scheme=Scheme.W8A8)))
    shutil.rmtree(made.primary)
    seal_bundle(made.primary, payload, made.key)
    files = tuple((name, sha256_hex(data)) for name, data in payload.items())
    primary = BundleRef(bundle_id(files), sum(map(len, payload.values())))
    write_channel(made.channel, tiny_channel(primary=primary), made.key)
    return made


def test_a_pair_in_one_process_answers_and_says_who_did(two_tflite: Sealed, capsys) -> None:
    more = ("--channel", str(two_tflite.channel), "--pair", str(two_tflite.backup))
    assert predict(two_tflite, *more, "--json", bundle=two_tflite.primary) == 0
    told = json.loads(capsys.readouterr().out)["pair"]
    assert told["rows"] == {"primary": 2500, "backup": 0}
    assert (told["term"], told["faults"], told["standby"]["candidate"]) == (1, [], "dense.f32")
    assert answers(two_tflite).shape == (2500, 1)
    assert predict(two_tflite, *more, bundle=two_tflite.primary) == 0
    assert "2,500 by the primary, 0 by the backup, term 1" in capsys.readouterr().out


def test_a_pair_the_wrong_way_round_is_refused(two_tflite: Sealed, capsys) -> None:
    more = ("--channel", str(two_tflite.channel), "--pair", str(two_tflite.primary))
    assert predict(two_tflite, *more, bundle=two_tflite.backup) == 33
    assert "give the primary, then its standby" in capsys.readouterr().err


@dataclass
class Day:
    """The time of day that ``run`` sees, and what happens between READY and the first answer."""

    now: datetime = NOW
    meanwhile: Callable[[], None] = lambda: None

    def end(self) -> None:
        self.now = NOW + timedelta(hours=1, seconds=1)


@pytest.fixture
def day(monkeypatch: pytest.MonkeyPatch) -> Day:
    made, read_inputs = Day(), node_run.read_inputs

    def read(*given: Any) -> dict[str, np.ndarray]:
        made.meanwhile()
        return read_inputs(*given)

    for module in (node_run, paired):
        monkeypatch.setattr(module, "utc_now", lambda: made.now)
    monkeypatch.setattr(node_run, "read_inputs", read)
    return made


@pytest.fixture
def ending(two_tflite: Sealed, tmp_path: Path) -> Sealed:
    """The pair, under a channel that ends an hour after NOW."""
    folder = shutil.copytree(
        two_tflite.folder, tmp_path / "ending", ignore=shutil.ignore_patterns("state", "answers.npz")
    )
    made = Sealed(folder, two_tflite.key)
    offer(made, hours=1)
    return made


def offer(pair: Sealed, hours: int, **changes: object) -> None:
    """Lay a channel over the same bundles down, which is good for so long."""
    channel, _ = read_channel((pair.channel / "channel.sig").read_bytes(), load_policy(pair.trust))
    end = to_text(NOW + timedelta(hours=hours))
    write_channel(pair.channel, replace(channel, refresh_by=end, not_after=end, **changes), pair.key)


def in_pair(pair: Sealed, *more: str) -> int:
    return predict(pair, "--channel", str(pair.channel), "--pair", str(pair.backup), *more, bundle=pair.primary)


def test_a_pair_whose_channel_ends_while_it_answers_stops_and_writes_nothing(ending: Sealed, day: Day, capsys) -> None:
    day.meanwhile = day.end
    assert in_pair(ending) == Expired.exit_code
    told = capsys.readouterr()
    assert "ready" in told.out
    assert "ended at 2026-06-01T13:00:00Z" in told.err
    assert not (ending.folder / "answers.npz").exists()


def test_a_pair_does_not_start_past_its_channels_end(ending: Sealed, day: Day, capsys) -> None:
    day.end()
    assert in_pair(ending) == Expired.exit_code
    assert "ready" not in capsys.readouterr().out


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_policy_that_serves_on_has_the_pair_answer_and_say_so(
    ending: Sealed, day: Day, capsys, is_restarted: bool
) -> None:
    ending.trust.write_text(f"{ending.trust.read_text()}expired: serve-and-alarm\n")
    day.meanwhile = day.end
    if is_restarted:
        day.end()
    assert in_pair(ending, "--json") == 0
    told = json.loads(capsys.readouterr().out)["pair"]
    assert (told["channel"]["is_expired"], told["channel"]["policy"]) == (True, "serve-and-alarm")
    assert [(fault["seat"], fault["fault"]) for fault in told["faults"]] == [("channel", "expired")]
    day.now = day.now if is_restarted else NOW
    assert in_pair(ending) == 0
    assert "channel: expired (dependency)" in capsys.readouterr().out


def test_a_channel_that_was_renewed_meanwhile_lets_the_pair_go_on(ending: Sealed, day: Day, capsys) -> None:
    def renewed() -> None:
        offer(ending, hours=2, seq=8)
        day.end()

    day.meanwhile = renewed
    assert in_pair(ending, "--json") == 0
    assert json.loads(capsys.readouterr().out)["pair"]["channel"]["seq"] == 8
    floor = read_floor(floor_path(ending.folder / "state", "tiny"))
    assert floor is not None and floor.seq == 8


def test_a_standby_that_was_tampered_with_is_refused(two_tflite: Sealed, tmp_path: Path, capsys) -> None:
    standby = shutil.copytree(two_tflite.backup, tmp_path / "tampered")
    model = standby / "payload/model/model.tflite"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    assert predict(two_tflite, "--pair", str(standby), bundle=two_tflite.primary) == 30


def test_an_onnx_model_is_no_half_of_a_pair_in_one_process(pair: Sealed, capsys) -> None:
    assert predict(pair, "--pair", str(pair.backup), bundle=pair.primary) == 33
    assert "hotspare serve" in capsys.readouterr().err
