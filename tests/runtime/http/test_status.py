"""What people and Prometheus read: metrics, status, the page and its policy, the API's description, logs."""

import io
import json
import os
import re
import time
from dataclasses import replace

import pytest
from asking import GOOD, Client
from fake_service import FakeService, pair_status
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from pipeline.core.names import Role
from pipeline.runtime.http.logs import LogWriter
from pipeline.runtime.http.metrics import HttpCounts, metrics_text
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.tokens import TokenUse
from pipeline.runtime.http.unread import Unread


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_metrics_are_what_prometheus_parses(client):
    client.infer(GOOD)
    client.infer({})
    reply = client.ask("GET", "/metrics")
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    read = families(reply.body.decode())
    values = {(s.name, *sorted(s.labels.items())): s.value for family in read.values() for s in family.samples}
    assert values["hotspare_http_responses_total", ("status", "200")] == 1
    assert values["hotspare_http_responses_total", ("status", "400")] == 1
    assert values["hotspare_infer_seconds_count",] == 1
    assert values["hotspare_infer_seconds_bucket", ("le", "+Inf")] == 1
    assert values["hotspare_requests_total", ("model", "tiny"), ("outcome", "answered")] == 123
    assert values["hotspare_requests_total", ("model", "tiny"), ("outcome", "overloaded")] == 2
    assert values["hotspare_term", ("model", "tiny")] == 7
    assert values["hotspare_serving", ("model", "tiny"), ("role", "backup")] == 0
    assert values["hotspare_member_state", ("model", "tiny"), ("seat", "backup-0"), ("state", "ready")] == 1
    assert all(family.type in ("counter", "gauge", "histogram") and family.documentation for family in read.values())


def test_a_channels_age_is_in_the_metrics_and_in_the_status(client):
    read = families(client.ask("GET", "/metrics").body.decode())
    values = {(s.name, s.labels.get("model")): s.value for family in read.values() for s in family.samples}
    assert values["hotspare_channel_seq", "tiny"] == 9
    assert values["hotspare_channel_age_seconds", "tiny"] == 7200
    assert values["hotspare_channel_refresh_in_seconds", "rating"] == -3600
    assert values["hotspare_channel_expires_in_seconds", "echo"] == -7200
    assert [values["hotspare_channel_expired", model] for model in ("tiny", "rating", "echo")] == [0, 0, 1]
    found = {pair["model"]: pair["channel"] for pair in client.ask("GET", "/status.json").json["pairs"]}
    assert found["tiny"] == {
        "name": "stable", "epoch": 1, "seq": 9,
        "issued_at": "2026-06-01T12:00:00Z", "refresh_by": "2026-06-02T12:00:00Z", "not_after": "2026-06-03T12:00:00Z",
        "age_s": 7200, "refresh_in_s": 79200, "expires_in_s": 165600,
        "is_due": False, "is_expired": False, "policy": "refuse",
    }  # fmt: skip
    assert (found["rating"]["is_due"], found["echo"]["is_expired"]) == (True, True)


def test_a_pair_without_a_channel_has_no_age():
    status = replace(pair_status("tiny"), channel=None)
    assert "hotspare_channel_seq{" not in metrics_text((status,), HttpCounts(Unread(1)), draining=False)


def test_a_label_cannot_break_the_metrics():
    read = families(metrics_text((pair_status('a"\\\nb'),), HttpCounts(Unread(1)), draining=True))
    assert {sample.labels["model"] for sample in read["hotspare_term"].samples} == {'a"\\\nb'}
    assert read["hotspare_draining"].samples[0].value == 1


def test_histogram_buckets_are_cumulative():
    counts = HttpCounts(Unread(1))
    for seconds in (0.0001, 0.001, 0.003, 9.0):
        counts.time(seconds)
    samples = families("\n".join(counts.lines()) + "\n")["hotspare_infer_seconds"].samples
    buckets = {sample.labels["le"]: sample.value for sample in samples if sample.name.endswith("_bucket")}
    assert [buckets[limit] for limit in ("0.0005", "0.001", "0.005", "2.5", "+Inf")] == [1, 2, 3, 3, 4]


def test_the_status_is_all_that_the_service_tells(client, guarded):
    status = client.ask("GET", "/status.json").json
    assert (status["draining"], status["can_be_told"]) == (False, False)
    pair = status["pairs"][0]
    assert (pair["model"], pair["serving"], pair["term"]) == ("tiny", "primary", 7)
    assert pair["members"][1]["seat"] == {"role": "backup", "replica": 0}
    assert pair["timeline"][1]["diagnosis"]["component"] == "engine"
    assert pair["counters"]["refused"] == {"deadline": 1, "overloaded": 2}
    assert guarded.ask("GET", "/status.json").json["can_be_told"] is True


def test_the_page_loads_nothing_and_runs_only_its_own_script(client):
    reply = client.ask("GET", "/")
    page, policy = reply.body.decode(), reply.headers["content-security-policy"]
    assert reply.headers["x-frame-options"] == "DENY"
    assert "default-src 'none'" in policy and "unsafe" not in policy and policy.count("'sha256-") == 2
    assert re.findall(r"(?:src|href|action)=\"(?!data:,)|@import|url\(|innerHTML|style=\"", page) == []
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "localStorage" not in page and "cookie" not in page


def test_the_description_names_what_is_served(client, guarded):
    closed, opened = (which.ask("GET", "/openapi.json").json for which in (client, guarded))
    assert not [path for path in closed["paths"] if path.startswith("/admin")]
    assert len([path for path in opened["paths"] if path.startswith("/admin")]) == 4
    parameter = closed["paths"]["/v2/models/{model}"]["parameters"][0]
    assert parameter["schema"]["enum"] == ["tiny", "rating", "echo"]
    assert opened["paths"]["/v2/models/{model}/infer"]["post"]["security"] == [{"token": []}]
    for schema in closed["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_what_is_answered_fits_its_description(client):
    document = client.ask("GET", "/openapi.json").json
    cases = {"Server": "/v2", "Model": "/v2/models/tiny", "Error": "/v2/models/nope"}
    answers = {name: client.ask("GET", path).json for name, path in cases.items()}
    answers["InferAnswer"] = client.infer(GOOD).json
    for name, answer in answers.items():
        Draft202012Validator(document["components"]["schemas"][name]).validate(answer)


def test_the_access_log_has_one_line_a_request_and_no_secrets(guarded):
    records = []
    client = Client(
        FakeService(role=Role.BACKUP), FrontSettings(tokens=guarded.front.tokens, access_log=records.append)
    )
    bearer = guarded.bearer[TokenUse.ADMIN]
    client.ask("POST", "/v2/models/tiny/infer", GOOD, bearer)
    client.ask("POST", "/v2/models/ti\x1bny/infer", GOOD, bearer)
    client.ask("GET", "/metrics")
    assert [record["status"] for record in records] == [200, 404, 200]
    assert (records[0]["model"], records[0]["role"], records[0]["term"]) == ("tiny", "backup", 7)
    assert records[0]["client"] == "127.0.0.1" and records[0]["ms"] >= 0
    assert bearer["authorization"].split()[1] not in repr(records) and "features" not in repr(records)


def test_log_lines_are_json_in_order():
    stream = io.BytesIO()
    writer = LogWriter(stream)
    for index in range(5):
        writer.put({"kind": "access", "path": f"/\x1b\n{index}", "role": Role.BACKUP})
    writer.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["path"][-1] for line in lines] == list("01234") and lines[0]["role"] == "backup"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", lines[0]["at"])


def test_a_log_that_nobody_reads_holds_nothing_up():
    class Stuck(io.BytesIO):
        def write(self, _):
            raise BrokenPipeError

    writer = LogWriter(Stuck(), lines_max=2)
    for _ in range(100):
        writer.put({})
    writer.close()


def test_a_reader_that_sleeps_does_not_hold_up_the_end(monkeypatch):
    monkeypatch.setattr("pipeline.runtime.http.logs._CLOSE_S", 0.05)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb", buffering=0) as stream:
        writer, began_s = LogWriter(stream), time.monotonic()
        for _ in range(3):
            writer.put({"path": "x" * 100_000})
        writer.close()
        assert time.monotonic() - began_s < 10
        os.close(reading)
        writer.close()  # what was stuck is rid of its reader, and ends


def test_a_bug_is_a_500_with_an_error_body(client, service):
    async def infer(*_):
        raise ZeroDivisionError

    service.infer = infer
    with pytest.raises(ZeroDivisionError):  # for the server's log
        client.infer(GOOD)
    start, body = client.sent
    assert start["status"] == 500 and list(json.loads(body["body"])) == ["error"]
