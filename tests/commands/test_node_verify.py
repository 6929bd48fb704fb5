import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from attested import DRILL, attest, tell_origin
from sealed import EVERY_USE, Sealed, reference, sealed, tiny_channel, write_channel

from pipeline.bundle.channel import Revocations
from pipeline.bundle.floor import floor_path, raise_floor, read_floor
from pipeline.cli import main
from pipeline.core.names import Format, Role


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("template"))


@pytest.fixture
def pair(template: Sealed, tmp_path: Path) -> Sealed:
    shutil.copytree(template.folder, tmp_path / "pair")
    return Sealed(tmp_path / "pair", template.key)


def verify(pair: Sealed, *more: str) -> int:
    return main(["verify", str(pair.backup), "--trust", str(pair.trust), *more])


def with_channel(pair: Sealed) -> list[str]:
    return ["--channel", str(pair.channel)]


def test_it_says_what_was_verified_and_what_was_not(pair: Sealed, capsys) -> None:
    assert verify(pair) == 0
    told = capsys.readouterr().out
    assert "tiny dense.f32" in told
    assert reference(Format.TFLITE).bundle_id in told
    assert "not checked no channel was given" in told


def test_json_is_for_machines(pair: Sealed, capsys) -> None:
    assert verify(pair, "--json", *with_channel(pair)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bundle_id"] == reference(Format.TFLITE).bundle_id
    assert (told["role"], told["channel"], told["unchecked"]) == ("backup", {"epoch": 0, "seq": 7}, [])


def test_verifying_moves_no_floor(pair: Sealed) -> None:
    assert verify(pair, *with_channel(pair)) == 0
    assert read_floor(floor_path(pair.folder / "state", "tiny")) is None


def test_a_policy_with_channels_takes_the_models_own_and_needs_it(pair: Sealed, capsys) -> None:
    pair.trust.write_text(pair.trust.read_text() + "channels: channels\n")
    assert verify(pair, "--role", "backup", "--json") == 0
    assert json.loads(capsys.readouterr().out)["role"] == "backup"
    shutil.rmtree(pair.channel)
    assert verify(pair) == 43
    assert "channels/tiny" in capsys.readouterr().err


def _tamper(pair: Sealed) -> list[str]:
    path = pair.backup / "payload/model/model.tflite"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return []


def _unpin(pair: Sealed) -> list[str]:
    text = pair.trust.read_text().replace(EVERY_USE, "[bundle]")
    pair.trust.write_text(text)
    return with_channel(pair)


def _spell(pair: Sealed) -> list[str]:
    path = pair.backup / "bundle.sig"
    path.write_bytes(path.read_bytes() + b"\n")
    return []


def _other_role(pair: Sealed) -> list[str]:
    return [*with_channel(pair), "--role", "primary"]


def _roll_back(pair: Sealed) -> list[str]:
    raise_floor(floor_path(pair.folder / "state", "tiny"), tiny_channel(seq=8).floor)
    return with_channel(pair)


def _expire(pair: Sealed) -> list[str]:
    dates = {"issued_at": "2020-01-01T00:00:00Z", "refresh_by": "2020-01-02T00:00:00Z"}
    write_channel(pair.channel, tiny_channel(**dates, not_after="2020-01-03T00:00:00Z"), pair.key)
    return with_channel(pair)


def _revoke(pair: Sealed) -> list[str]:
    revoked = Revocations(bundles=(reference(Format.TFLITE).bundle_id,))
    write_channel(pair.channel, tiny_channel(revoked=revoked), pair.key)
    return with_channel(pair)


def _no_policy(pair: Sealed) -> list[str]:
    pair.trust.unlink()
    return []


REFUSALS = {
    "tampered": (_tamper, 30),
    "signed by a key not pinned for channels": (_unpin, 31),
    "malformed": (_spell, 32),
    "in another role": (_other_role, 33),
    "rolled back": (_roll_back, 34),
    "expired": (_expire, 35),
    "revoked": (_revoke, 36),
    "without a policy": (_no_policy, 14),
    "asked for a role without a channel": (lambda _: ["--role", "backup"], 2),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_every_refusal_is_one_sentence_with_its_own_exit_code(pair: Sealed, capsys, case: str) -> None:
    prepare, code = REFUSALS[case]
    assert verify(pair, *prepare(pair)) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("hotspare verify: ")
    assert told.err.count("\n") == 1


def test_verifying_loads_no_numpy_no_engine_and_nothing_of_the_build_side(pair: Sealed) -> None:
    script = (
        "import sys; from pipeline.cli import main; code = main(sys.argv[1:]); "
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr); sys.exit(code)"
    )
    arguments = ["verify", str(pair.backup), "--trust", str(pair.trust), *with_channel(pair)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "cryptography" in loaded
    heavy = {"numpy", "ai_edge_litert", "onnxruntime", "tensorflow", "mlflow", "model_signing", "dvc", "rich", "onnx"}
    assert loaded & heavy == set()


def attested(pair: Sealed, **changes: object) -> list[str]:
    ids = {Role.PRIMARY: reference(Format.ONNX).bundle_id, Role.BACKUP: reference(Format.TFLITE).bundle_id}
    (pair.folder / "drill.json").write_bytes(attest("tiny", ids, pair.key, pair.trust, **changes))
    return ["--drill", str(pair.folder / "drill.json")]


@pytest.mark.parametrize("channel", [[], ["--channel"]])
def test_a_drill_of_this_bundle_is_verified_and_told(pair: Sealed, capsys, channel: list[str]) -> None:
    more = with_channel(pair) if channel else []
    assert verify(pair, *attested(pair), *more) == 0
    assert "drill       passed, live" in capsys.readouterr().out
    assert verify(pair, "--json", *attested(pair)) == 0
    told = json.loads(capsys.readouterr().out)["drill"]
    assert (told["passed"], told["drills"], told["rto_ms_p95"]) == (True, {"kill": True}, 31.5)


def test_a_drill_that_failed_is_told_as_such(pair: Sealed, capsys) -> None:
    missed = replace(DRILL, passed=False, misses=("lost_max: 1 > 0",))
    assert verify(pair, *attested(pair, passed=False, drills=(missed,))) == 0
    assert "MISSED ITS OBJECTIVES" in capsys.readouterr().out


@pytest.mark.parametrize("case", ["other bundles", "other roles", "tampered", "missing"])
def test_a_drill_that_is_not_this_bundles_is_refused(pair: Sealed, capsys, case: str) -> None:
    ids = {Role.PRIMARY: reference(Format.TFLITE).bundle_id, Role.BACKUP: "ee" * 32}
    ids |= {Role.PRIMARY: "dd" * 32} if case == "other bundles" else {}
    data = attest("tiny", ids, pair.key, pair.trust)
    place = pair.folder / "drill.json"
    if case != "missing":
        place.write_bytes(data.replace(b"A", b"B", 1) if case == "tampered" else data)
    assert verify(pair, "--drill", str(place), *with_channel(pair)) in (30, 31, 32, 33, 43)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1


def test_where_a_bundle_comes_from_is_verified_and_told(pair: Sealed, capsys) -> None:
    ids = reference(Format.TFLITE).bundle_id
    place = pair.folder / "provenance.json"
    place.write_bytes(tell_origin("tiny", Role.BACKUP, ids, pair.key, pair.trust, data="ab" * 32))
    assert verify(pair, "--provenance", str(place)) == 0
    told = capsys.readouterr().out
    assert "provenance  no commit, dvc.lock cdcdcdcdcdcd…, 2 materials" in told
    assert "built by    urn:hotspare:builder:local" in told
    assert verify(pair, "--json", "--provenance", str(place)) == 0
    origin = json.loads(capsys.readouterr().out)["provenance"]
    assert origin["materials"] == {"dvc.lock": "cd" * 32, "data": "ab" * 32}


@pytest.mark.parametrize("case", ["another bundle", "a drill", "tampered", "missing"])
def test_provenance_that_is_not_this_bundles_is_refused(pair: Sealed, capsys, case: str) -> None:
    place = pair.folder / "provenance.json"
    other = "dd" * 32 if case == "another bundle" else reference(Format.TFLITE).bundle_id
    data = tell_origin("tiny", Role.BACKUP, other, pair.key, pair.trust)
    if case == "a drill":
        data = attest("tiny", {Role.PRIMARY: "dd" * 32, Role.BACKUP: other}, pair.key, pair.trust)
    if case != "missing":
        place.write_bytes(data.replace(b"A", b"B", 1) if case == "tampered" else data)
    assert verify(pair, "--provenance", str(place)) in (30, 31, 32, 33, 43)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
