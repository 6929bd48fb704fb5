"""The MLflow server's start: what is missing is said in sentences, before anything starts, and without a secret."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_server import run_script

from pipeline.registry.server_needs import is_loopback, missing_settings

WHOLE = {
    "PGHOST": "db.example",
    "PGDATABASE": "mlflow",
    "PGUSER": "mlflow",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/prefix",
    "MLFLOW_HOST": "127.0.0.1",
    "HOTSPARE_MLFLOW_AUTH": "basic",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "hush" * 8,
    "MLFLOW_AUTH_ADMIN_PASSWORD": "hush" * 8,
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"PGHOST": ""}, "PGHOST"),
        ({"PGDATABASE": ""}, "PGDATABASE"),
        ({"PGUSER": ""}, "PGUSER"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": "./files"}, "names no bucket"),
        ({"MLFLOW_ARTIFACTS_DESTINATION": "s3:///prefix"}, "names no bucket"),
        ({"HOTSPARE_MLFLOW_AUTH": ""}, "HOTSPARE_MLFLOW_AUTH is not set"),
        ({"HOTSPARE_MLFLOW_AUTH": "off"}, "basic"),
        ({"MLFLOW_FLASK_SERVER_SECRET_KEY": "hush"}, "openssl rand"),
        ({"MLFLOW_HOST": "192.0.2.7"}, "MLFLOW_SERVER_ALLOWED_HOSTS"),
        (
            {"MLFLOW_HOST": "10.0.0.5", "HOTSPARE_MLFLOW_AUTH": "none", "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow:5000"},
            "opens the server to other machines",
        ),
    ],
)
def test_each_missing_setting_is_one_sentence(changes: dict[str, str], words: str) -> None:
    (told,) = missing_settings({**WHOLE, **changes})
    assert words in told
    assert told.endswith((".", "?"))
    assert "hush" not in told


def test_whole_settings_lack_nothing() -> None:
    assert list(missing_settings(WHOLE)) == []
    elsewhere = {**WHOLE, "MLFLOW_HOST": "192.0.2.7", "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow.example:5000"}
    assert list(missing_settings(elsewhere)) == []
    assert list(missing_settings({**WHOLE, "HOTSPARE_MLFLOW_AUTH": "none"})) == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@given(st.ip_addresses().filter(lambda address: not address.is_loopback).map(str) | st.text(max_size=20))
def test_every_other_address_may_reach_other_machines(host: str) -> None:
    assert not is_loopback(host) or host == "localhost"


@pytest.mark.parametrize(
    "line",
    [
        "PGPASSWORD=hunter2",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "AWS_ACCESS_KEY_ID=hunter2",
        "MLFLOW_FLASK_SERVER_SECRET_KEY=hunter2",
        "MLFLOW_S3_ENDPOINT_URL=http://user:hunter2@store:9000",
    ],
)
def test_a_secret_in_the_settings_file_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    settings = tmp_path / "mine.env"
    settings.write_text(f"# mine\n\n{line}\n")
    done = run_script({}, "--check", str(settings))
    assert done.returncode == 2
    assert f"{settings} line 3 holds a secret" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("line", ["PGHOST", "export PGHOST=x", "pghost=x", "$(touch {seen})", "PG HOST=x"])
def test_what_is_no_setting_is_refused_by_its_line_and_never_run(tmp_path: Path, line: str) -> None:
    settings = tmp_path / "mine.env"
    settings.write_text(line.format(seen=tmp_path / "seen") + "\n")
    done = run_script({}, "--check", str(settings))
    assert done.returncode == 2
    assert f"{settings} line 1 is not NAME=value" in done.stderr
    assert not (tmp_path / "seen").exists()


def test_a_settings_value_is_data_and_the_environment_wins(tmp_path: Path) -> None:
    settings = tmp_path / "mine.env"
    trap = f"$(touch {tmp_path / 'seen'})`touch {tmp_path / 'seen'}`"
    settings.write_text(f"HOTSPARE_MLFLOW_AUTH={trap}\nPGHOST=\n")
    done = run_script({"PGHOST": "here"}, "--check", str(settings))
    assert done.returncode == 2
    assert f"HOTSPARE_MLFLOW_AUTH is {trap}" in done.stderr
    assert "PGHOST is not set" not in done.stderr
    assert not (tmp_path / "seen").exists()


def test_the_shipped_settings_lack_only_secrets() -> None:
    done = run_script({}, "--check")
    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if "is not installed" not in line]
    assert [line.split()[0] for line in told] == ["MLFLOW_FLASK_SERVER_SECRET_KEY"]


def test_a_settings_file_that_is_not_there_is_told() -> None:
    done = run_script({}, "--check", "nowhere.env")
    assert done.returncode == 2
    assert "nowhere.env does not exist" in done.stderr
