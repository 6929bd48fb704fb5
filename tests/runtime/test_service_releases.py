"""The service under clients, while its bundles change on disk, are tampered with, or its disk cannot be written."""

import os
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from sealed import Sealed, tiny_inputs, tiny_payload
from serving import ROWS, Clients, Reply, Starter, copied, question, until

from pipeline.commands.build.keys import policy_text
from pipeline.core.names import Format, Role
from pipeline.seal.payload import build_payload
from pipeline.seal.signing import seal_bundle

pytestmark = pytest.mark.slow


def newer(files: Sealed) -> None:
    """Put a newly signed primary where the old one is: the same model under another bundle id."""
    payload = {**tiny_payload(Format.ONNX), "NOTES.md": b"Packed again."}
    beside = files.folder / "newer"
    seal_bundle(beside, payload, files.key)
    shutil.rmtree(files.primary)
    beside.rename(files.primary)


def tamper(files: Sealed, role: Role = Role.PRIMARY) -> str:
    """Change a byte of a bundle's model; returns the file's name."""
    folder = files.primary if role is Role.PRIMARY else files.backup
    model = next(path for path in folder.rglob("model.*"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    return model.name


def bundle_ids(clients: Clients) -> set[str]:
    return {one.headers["hotspare-bundle-id"] for one in clients.answers if one.role == "primary"}


def assert_no_answer_mixes(clients: Clients) -> None:
    """A primary's answer names one bundle, in header and version, and a term belongs to one bundle."""
    of_term: dict[int, str] = {}
    for one in clients.answers:
        if one.role == "primary":
            bundle = one.headers["hotspare-bundle-id"]
            assert bundle.startswith(one.json["model_version"])
            assert of_term.setdefault(one.term, bundle) == bundle


@pytest.mark.parametrize("way", ["signal", "admin"])
def test_a_swap_under_load_loses_nothing_and_mixes_nothing(service: Starter, way: str) -> None:
    served = service(admin=True)
    before = served.until_whole()
    with Clients(served) as clients:
        newer(served.files)
        if way == "admin":
            assert served.admin("swap").status == 200
        else:
            os.kill(served.server, signal.SIGHUP)
        after = served.until(lambda pair: pair["version"] != before["version"] and pair)
        clients.more()
    clients.assert_nothing_lost()
    assert_no_answer_mixes(clients)
    assert {one[:12] for one in bundle_ids(clients)} == {before["version"], after["version"]}
    assert after["term"] > before["term"]
    until(lambda: len(served.of_title("hotspare worker")) == 2)
    assert served.ask("GET", f"/v2/models/tiny/versions/{before['version']}/ready").status == 404


def test_two_swaps_at_once_and_a_failover_meanwhile_lose_nothing(service: Starter) -> None:
    served = service(admin=True)
    before = served.until_whole()
    with Clients(served) as clients:
        newer(served.files)
        statuses: list[int] = []
        asking = [threading.Thread(target=lambda: statuses.append(served.admin("swap").status)) for _ in range(2)]
        for thread in asking:
            thread.start()
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        for thread in asking:
            thread.join()
        after = served.until_whole()
        clients.more()
    clients.assert_nothing_lost()
    assert_no_answer_mixes(clients)
    assert statuses == [200, 200]
    assert after["version"] != before["version"]
    until(lambda: len(served.of_title("hotspare worker")) == 2)
    highest = served.status()["term"]
    os.kill(served.server, signal.SIGKILL)
    served.wait_for_ready(2)
    assert served.until_whole()["term"] > highest


def test_a_server_killed_in_the_middle_of_a_swap_comes_back_with_one_pair_of_workers(service: Starter) -> None:
    served = service()
    before = served.until_whole()
    with Clients(served, again=True) as clients:
        newer(served.files)
        os.kill(served.server, signal.SIGHUP)
        until(lambda: len(served.of_title("hotspare worker")) > 2)
        os.kill(served.server, signal.SIGKILL)
        served.wait_for_ready(2)
        after = served.until_whole()
        clients.more()
    clients.assert_nothing_lost()
    assert_no_answer_mixes(clients)
    assert after["version"] != before["version"]
    assert after["term"] > max(one.term for one in clients.answers if one.json["model_version"] == before["version"])
    until(lambda: len(served.of_title("hotspare worker")) == 2)


def test_a_swap_to_a_tampered_bundle_is_refused_and_the_old_release_serves_on(service: Starter) -> None:
    served = service(admin=True)
    before = served.until_whole()
    with Clients(served) as clients:
        name = tamper(served.files)
        refused = served.admin("swap")
        assert refused.status == 409
        assert name in refused.json["error"]
        os.kill(served.process.pid, signal.SIGHUP)
        served.until(lambda pair: any(event["text"].startswith("Not swapped") for event in pair["timeline"]))
        clients.more()
    clients.assert_nothing_lost()
    after = served.status()
    assert (after["version"], after["term"]) == (before["version"], before["term"])
    assert len(served.of_title("hotspare worker")) == 2


def test_a_bundle_tampered_with_is_not_loaded_again_and_the_artifact_is_named(service: Starter) -> None:
    served = service()
    served.until_whole()
    with Clients(served) as clients:
        tamper(served.files)
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda pair: pair["serving"] == "backup" and pair["counters"]["restarts"] >= 2)
        clients.more()
    clients.assert_nothing_lost()
    told = [one for one in served.diagnoses() if one["fault"] == "start_failed"]
    assert {one["component"] for one in told} == {"artifact on disk"}


def test_what_was_tampered_with_is_noticed_before_a_restart_needs_it(service: Starter) -> None:
    served = service("--scrub-every-s", "1")
    served.until_whole()
    tamper(served.files, Role.BACKUP)
    served.until(lambda pair: any((event["diagnosis"] or {}).get("fault") == "tampered" for event in pair["timeline"]))
    assert served.until_whole()["counters"]["restarts"] == 0


def test_a_pair_whose_standby_is_refused_at_a_restart_serves_alone_until_that_is_repaired(service: Starter) -> None:
    served = service("--scrub-every-s", "1")
    served.until_whole()
    tamper(served.files, Role.BACKUP)
    os.kill(served.server, signal.SIGKILL)
    served.wait_for_ready(2)
    served.until(lambda pair: pair["serving"] == "primary")
    assert served.infer().role == "primary"
    assert any("backup's bundle is refused" in text for text in served.timeline())
    tamper(served.files, Role.BACKUP)  # the same byte again: as it was
    served.until_whole()


def test_where_the_state_folder_cannot_be_written_the_service_says_so_and_does_not_start(
    service: Starter, pair: Sealed, tmp_path: Path
) -> None:
    files = copied(pair, tmp_path / "files")
    (files.folder / "state").write_text("a file where a folder should be")
    served = service(files=files, wait=False)
    assert served.process.wait(30) in (41, 43)
    assert "state" in served.log
    assert "Traceback" not in served.log


def test_while_the_state_folder_cannot_be_written_the_service_fails_over_and_says_what_is_short(
    service: Starter,
) -> None:
    served = service()
    before = served.until_whole()["term"]
    with Clients(served) as clients:
        state = served.files.folder / "state"
        shutil.rmtree(state)
        state.write_text("in the way")
        os.kill(served.pid(Role.PRIMARY), signal.SIGKILL)
        served.until(lambda pair: pair["term"] > before)
        clients.more()
    clients.assert_nothing_lost()
    assert "resource" in {one["component"] for one in served.diagnoses()}
    state.unlink()
    highest = served.status()["term"]
    os.kill(served.server, signal.SIGKILL)
    served.wait_for_ready(2)
    assert served.until_whole()["serving"] == "primary"
    assert highest


def test_a_server_that_dies_while_the_disk_is_full_comes_back_when_there_is_room(service: Starter) -> None:
    served = service()
    before = served.until_whole()["term"]
    state = served.files.folder / "state"
    aside = served.files.folder / "aside"
    state.rename(aside)
    state.write_text("in the way")
    os.kill(served.server, signal.SIGKILL)
    until(lambda: "Not opened yet" in served.log)
    state.unlink()
    aside.rename(state)
    served.wait_for_ready(2)
    assert served.until_whole()["term"] > before


def second_model(files: Sealed) -> tuple[Path, Path]:
    """Seal the pair under another name beside the first, and have the policy accept both."""
    made = []
    for model_format, role in ((Format.ONNX, "primary"), (Format.TFLITE, "backup")):
        inputs = tiny_inputs(model_format)
        recipe, card = replace(inputs.recipe, model="second"), replace(inputs.card, model="second")
        folder = files.folder / f"second-{role}"
        seal_bundle(folder, build_payload(replace(inputs, recipe=recipe, card=card)), files.key)
        made.append(folder)
    files.trust.write_text(policy_text(files.key.public_key(), ("tiny", "second")))
    return made[0], made[1]


def test_of_two_models_in_one_server_each_has_faults_and_swaps_of_its_own(
    service: Starter, pair: Sealed, tmp_path: Path
) -> None:
    files = copied(pair, tmp_path / "files")
    primary, standby = second_model(files)
    served = service("--primary", str(primary), "--standby", str(standby), files=files, admin=True)

    def ask_second() -> Reply:
        return served.ask("POST", "/v2/models/second/infer", question(ROWS[:1]))

    assert served.readies()[-1]["models"] == ["second", "tiny"]
    until(lambda: ask_second().status == 200)
    with Clients(served) as clients:
        os.kill(next(pid for pid in served.of_title("hotspare worker second primary")), signal.SIGKILL)
        until(lambda: ask_second().headers.get("hotspare-role") == "backup")
        newer(served.files)
        assert served.admin("swap").status == 200
        clients.more()
    clients.assert_nothing_lost()
    assert served.status()["counters"]["failovers"] == 0
    for folder in (primary, standby):
        shutil.rmtree(folder)
        folder.mkdir()
    os.kill(served.server, signal.SIGKILL)
    served.wait_for_ready(2)
    assert served.infer().status == 200
    assert ask_second().status == 404
