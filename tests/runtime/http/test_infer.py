"""Inference by HTTP: what is answered, what is refused, with which status and headers."""

import json
from dataclasses import replace

import numpy as np
import pytest
from asking import GOOD, Client, tensor
from fake_service import BACKUP_ID, DTYPES, PRIMARY_ID, VERSION, FakeService

from pipeline.core.errors import UsageError
from pipeline.core.names import Role
from pipeline.runtime.http.settings import FrontSettings, Limits
from pipeline.runtime.http.tensors import DATATYPES
from pipeline.runtime.http.tokens import TokenUse
from pipeline.runtime.service import NotAnswered, RefusalKind


def binary(tensors, **head):
    """Make a binary body and its JSON length."""
    inputs = [
        {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": array.shape,
            "parameters": {"binary_data_size": array.nbytes},
        }
        for name, array in tensors.items()
    ]
    text = json.dumps({"inputs": inputs, **head}).encode()
    return text + b"".join(array.tobytes() for array in tensors.values()), str(len(text))


def test_json_in_json_out(client):
    reply = client.infer({"id": "é-1", **GOOD})
    assert reply.status == 200
    assert reply.json == {
        "id": "é-1",
        "model_name": "tiny",
        "model_version": VERSION,
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [1, 1], "data": [2.5]}],
    }
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.body))


def test_every_answer_says_who_gave_it(client, service):
    stamps = {key: value for key, value in client.infer(GOOD).headers.items() if key.startswith("hotspare-")}
    assert stamps == {
        "hotspare-bundle-id": PRIMARY_ID,
        "hotspare-role": "primary",
        "hotspare-term": "7",
        "hotspare-degraded": "false",
    }
    service.role = Role.BACKUP
    reply = client.infer(GOOD)
    assert (reply.headers["hotspare-bundle-id"], reply.headers["hotspare-degraded"]) == (BACKUP_ID, "true")
    assert reply.json["model_version"] == VERSION  # the pair's version, whoever answers


def test_every_datatype_in_both_ways_there_and_back(client):
    rng = np.random.default_rng(3)
    arrays = {f"in_{d}": rng.integers(0, 2 if d == "bool" else 100, (3, 2)).astype(d) for d in DTYPES}
    as_json = {"inputs": [tensor(n, DATATYPES[a.dtype.name], a.shape, a.ravel().tolist()) for n, a in arrays.items()]}
    body, head = binary(arrays)
    replies = [client.infer(as_json, "echo"), client.infer(body, "echo", **{"inference-header-content-length": head})]
    for reply in replies:
        for output in reply.json["outputs"]:
            sent = arrays[output["name"].replace("out_", "in_")]
            assert output["datatype"] == DATATYPES[sent.dtype.name]
            assert np.array_equal(np.array(output["data"], sent.dtype).reshape(output["shape"]), sent)


def test_binary_outputs_follow_the_json(client):
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    body, head = binary({"features": array}, parameters={"binary_data_output": True})
    reply = client.infer(body, **{"inference-header-content-length": head})
    length = int(reply.headers["inference-header-content-length"])
    output = json.loads(reply.body[:length])["outputs"][0]
    assert output["parameters"] == {"binary_data_size": 8} and "data" not in output
    assert np.frombuffer(reply.body[length:], "<f4").tolist() == [1.5, 5.5]
    assert reply.headers["content-type"] == "application/octet-stream"


def test_wanted_outputs_come_in_their_order_and_form(client):
    inputs = [tensor("user", "INT32", [2], [1, 2]), tensor("item", "INT32", [2], [3, 4])]
    outputs = [{"name": "sum", "parameters": {"binary_data": True}}, {"name": "score"}]
    reply = client.infer({"inputs": inputs, "outputs": outputs}, "rating")
    length = int(reply.headers["inference-header-content-length"])
    first, second = json.loads(reply.body[:length])["outputs"]
    assert (first["name"], second["name"], second["data"]) == ("sum", "score", [0.04, 0.06])
    assert np.frombuffer(reply.body[length:], "<i4").tolist() == [4, 6]
    assert len(client.infer({"inputs": inputs, "outputs": []}, "rating").json["outputs"]) == 2


@pytest.mark.parametrize("data", [[1, 2, 3, 4], [[1, 2, 3, 4]], [1.0, 2, 3, 4e0]])
@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "INT64", "UINT8"])
def test_json_numbers_are_fitted_to_the_contract(client, data, datatype):
    reply = client.infer({"inputs": [tensor(datatype=datatype, data=data)]})
    if datatype in ("INT64", "UINT8") and data[0] == 1.0 and isinstance(data[0], float):
        assert reply.status == 400
    else:
        assert reply.json["outputs"][0]["data"] == [2.5]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"datatype": "BYTES"}, "BYTES"),
        ({"datatype": "FP8"}, "one of BOOL"),
        ({"datatype": 7}, "one of BOOL"),
        ({"shape": [1, 5], "data": [1, 2, 3, 4, 5]}, "'shape'"),
        ({"shape": [1, 4.0]}, "'shape'"),
        ({"shape": [0, 4], "data": []}, "'shape'"),
        ({"shape": [-1, 4]}, "'shape'"),
        ({"shape": [True, 4]}, "'shape'"),
        ({"shape": [4]}, "'shape'"),
        ({"shape": "14"}, "'shape'"),
        ({"shape": [2**62, 4]}, "needs 18446744073709551616 numbers"),
        ({"data": [1, 2, 3]}, "needs 4 numbers"),
        ({"data": [[1, 2], [3, 4]]}, "nested"),
        ({"data": [[1, 2, 3, [4]]]}, "numbers"),
        ({"data": [[[1, 2, 3, 4]]]}, "nested"),
        ({"data": [[1, 2, 3, 4], 5]}, "nested"),
        ({"data": [1, 2, 3, None]}, "numbers"),
        ({"data": [1, 2, 3, "4"]}, "numbers"),
        ({"data": [1, 2, 3, True]}, "numbers"),
        ({"data": ["abcd"]}, "needs 4"),
        ({"data": [[1, 2, 3, {"a": 1}]]}, "numbers"),
        ({"data": {"a": 1}}, "list of numbers"),
        ({"data": None}, "list of numbers"),
        ({"data": [1, 2, 3, 1e39]}, "beyond FP32"),
        ({"data": [1, 2, 3, 4], "parameters": {"binary_data_size": 16}}, "either"),
        ({"parameters": {"shared_memory_region": "x"}}, "shared_memory_region"),
        ({"parameters": [1]}, "object"),
        ({"name": "other"}, "features once"),
        ({"name": ["features"]}, "features once"),
    ],
)
def test_an_input_that_does_not_fit_is_refused_in_a_sentence(client, change, told):
    reply = client.infer({"inputs": [{**tensor(), **change}]})
    assert reply.status == 400
    assert told in reply.json["error"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "object"),
        (b"{}", "'inputs'"),
        ({"inputs": []}, "'inputs'"),
        ({"inputs": [7]}, "object"),
        ({"inputs": [tensor(), tensor()]}, "once"),
        ({"inputs": [tensor()] * 65}, "at most 64"),
        ({**GOOD, "id": 7}, "'id'"),
        ({**GOOD, "outputs": [{"name": "nope"}]}, "'outputs'"),
        ({**GOOD, "outputs": [{"name": []}]}, "'outputs'"),
        ({**GOOD, "outputs": [{"name": "probability"}] * 2}, "once"),
        ({**GOOD, "outputs": [{"name": "probability", "parameters": {"classification": 3}}]}, "classification"),
        ({**GOOD, "outputs": [{"name": "probability", "parameters": {"binary_data": 1}}]}, "true or false"),
        ({**GOOD, "parameters": {"sequence_id": 3}}, "sequence_id"),
        ({**GOOD, "parameters": {"timeout": -1}}, "microseconds"),
        ({**GOOD, "parameters": {"timeout": "1"}}, "microseconds"),
    ],
)
def test_a_body_that_is_no_request_is_refused_in_a_sentence(client, body, told):
    reply = client.infer(body)
    assert reply.status == 400
    assert told in reply.json["error"]


def test_inputs_with_different_numbers_of_rows_are_refused(client):
    inputs = [tensor("user", "INT32", [2], [1, 2]), tensor("item", "INT32", [3], [3, 4, 5])]
    assert "numbers of rows (2, 3)" in client.infer({"inputs": inputs}, "rating").json["error"]
    assert "lacks item" in client.infer({"inputs": inputs[:1]}, "rating").json["error"]


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**63, 2**64])
def test_an_integer_beyond_the_contract_is_refused_not_wrapped_around(client, number):
    inputs = [tensor("user", "INT64", [1], [number]), tensor("item", "INT32", [1], [3])]
    assert client.infer({"inputs": inputs}, "rating").status == 400


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_binary_numbers_that_are_not_finite_never_reach_a_worker(client, service, value):
    body, head = binary({"features": np.array([[1, 2, 3, value]], np.float32)})
    assert "NaN" in client.infer(body, **{"inference-header-content-length": head}).json["error"]
    assert service.deadlines_ms == []


@pytest.mark.parametrize(
    ("cut", "length", "told"),
    [
        (-1, None, "ends before"),
        (None, "99999", "body's length"),
        (None, "-1", "whole number"),
        (None, "9" * 99, "whole"),
    ],
)
def test_a_binary_body_of_another_length_is_refused(client, cut, length, told):
    body, head = binary({"features": np.ones((1, 4), np.float32)})
    reply = client.infer(body[:cut], **{"inference-header-content-length": length or head})
    assert reply.status == 400 and told in reply.json["error"]


def test_binary_bytes_that_no_input_claims_are_refused(client):
    body, head = binary({"features": np.ones((1, 4), np.float32)})
    assert "4 bytes more" in client.infer(body + b"1234", **{"inference-header-content-length": head}).json["error"]


def test_a_bool_byte_other_than_0_and_1_is_refused(client):
    arrays = {f"in_{d}": np.ones((1, 2), d) for d in DTYPES}
    body, head = binary(arrays)
    at = int(head)  # in_bool is the first
    reply = client.infer(body[:at] + b"\x02" + body[at + 1 :], "echo", **{"inference-header-content-length": head})
    assert "0 or 1" in reply.json["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/v2/models/tiny/versions/{VERSION}/infer", 200),
        ("/v2/models/tiny/versions/1/infer", 404),
        ("/v2/models/nope/infer", 404),
        ("/v2/models//infer", 404),
        ("/v2/models/tiny/versions/infer", 405),
        ("/v2/models/tiny/infer/", 404),
        ("/v2/infer", 404),
    ],
)
def test_paths(client, path, status):
    reply = client.ask("POST", path, GOOD)
    assert reply.status == status
    assert status == 200 or list(reply.json) == ["error"]


def test_another_method_is_told_which_one_is_right(client):
    assert client.ask("GET", "/v2/models/tiny/infer").headers["allow"] == "POST"
    reply = client.ask("POST", "/v2/health/live")
    assert (reply.status, set(reply.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


@pytest.mark.parametrize(
    ("kind", "status", "retry"),
    [
        (RefusalKind.BAD_REQUEST, 400, None),
        (RefusalKind.UNKNOWN, 404, None),
        (RefusalKind.POISON, 422, None),
        (RefusalKind.OVERLOADED, 429, "1"),
        (RefusalKind.ABSTAINED, 503, None),
        (RefusalKind.UNAVAILABLE, 503, "1"),
        (RefusalKind.DEADLINE, 504, None),
    ],
)
def test_a_refusal_of_the_service_has_its_status(client, service, kind, status, retry):
    service.refuse = NotAnswered(kind, "So it \x1b[31mis.")
    reply = client.infer(GOOD)
    assert (reply.status, reply.headers.get("retry-after")) == (status, retry)
    assert reply.json == {"error": "So it \\x1b[31mis."}
    service.refuse = NotAnswered(kind, "x", retry_after_s=9)
    assert client.infer(GOOD).headers["retry-after"] == "9"


def test_a_draining_server_is_not_ready_and_sends_clients_elsewhere(client, service):
    service.ending = True
    reply = client.infer(GOOD)
    assert (reply.status, reply.headers["connection"], reply.headers["retry-after"]) == (503, "close", "1")
    assert client.ask("GET", "/v2/health/live").status == 200
    for path in ("/v2/health/ready", "/v2/models/tiny/ready"):
        assert client.ask("GET", path).status == 503


def test_the_deadline_is_the_request_s_own_up_to_a_limit(service):
    client = Client(service, FrontSettings(limits=Limits(deadline_ms=700, deadline_ms_max=5000)))
    asked = [(None, None), (20_000, None), (0, None), (9_000_000_000, None)]
    asked += [(None, "40"), (20_000, "40"), (50_000, "40"), (None, "0")]
    for timeout_us, header in asked:
        body = GOOD if timeout_us is None else {**GOOD, "parameters": {"timeout": timeout_us}}
        client.infer(body, **({} if header is None else {"hotspare-timeout-ms": header}))
    assert service.deadlines_ms == [700, 20, 700, 5000, 40, 20, 40, 5000]
    assert client.infer(GOOD, **{"hotspare-timeout-ms": "soon"}).status == 400


def test_a_body_over_the_limit_is_refused_whether_or_not_it_says_its_length(service):
    client = Client(service, FrontSettings(limits=Limits(body_bytes_max=200)))
    told = client.infer(b"", **{"content-length": "201"})
    assert (told.status, told.headers["connection"]) == (413, "close")
    assert client.ask("POST", "/v2/models/tiny/infer", pieces=[b" " * 150, b" " * 150, b" " * 150]).status == 413
    assert client.ask("POST", "/v2/models/tiny/infer", pieces=[b" " * 201]).status == 413


def test_a_body_in_pieces_is_one_body(client):
    text = json.dumps(GOOD).encode()
    assert client.ask("POST", "/v2/models/tiny/infer", pieces=[text[:9], b"", text[9:]]).status == 200


def test_a_body_that_never_ends_is_given_up(service):
    client = Client(service, FrontSettings(limits=Limits(body_s_max=0.02)))
    assert client.ask("POST", "/v2/models/tiny/infer", pieces=[b"{", ...]).status == 408


def test_a_client_that_goes_away_is_not_answered(client, service):
    assert client.ask("POST", "/v2/models/tiny/infer", pieces=[b"{", None]) is None
    assert service.deadlines_ms == []


def test_a_compressed_body_is_refused(client):
    assert client.infer(b"", **{"content-encoding": "gzip"}).status == 415


@pytest.mark.parametrize("use", list(TokenUse))
def test_with_an_inference_token_configured_inference_needs_one(guarded, use):
    assert guarded.infer(GOOD).status == 401
    assert guarded.ask("GET", "/v2/models/tiny").status == 401
    assert guarded.ask("POST", "/v2/models/tiny/infer", GOOD, guarded.bearer[use]).status == 200
    assert guarded.ask("GET", "/v2/models/tiny", headers=guarded.bearer[use]).status == 200
    assert guarded.ask("GET", "/v2/health/ready").status == 200


def test_a_swap_while_the_body_arrives_loses_no_request(service):
    """The model is looked up when the body is there: a request must not be asked of a release that has gone."""
    old = service.models
    new = tuple(replace(model, version="f" * 12) for model in old())
    asked = []

    async def infer(model, version, inputs, deadline_ms):
        asked.append(version)
        return await FakeService.infer(service, model, version, inputs, deadline_ms)

    service.infer, calls = infer, iter([old(), new])
    service.models = lambda: next(calls)
    assert Client(service).infer(GOOD).status == 200
    assert asked == ["f" * 12]


def test_settings_that_make_no_sense_are_refused(service):
    with pytest.raises(UsageError, match="body_bytes_max must be above 0"):
        Client(service, FrontSettings(limits=Limits(body_bytes_max=0)))
