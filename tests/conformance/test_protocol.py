"""The Open Inference Protocol v2 by HTTP, and its binary tensor extension, as a client meets them.

Sources: the protocol's inference_rest.md and Triton's extension_binary_data.md.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from oip import outputs_of

pytestmark = pytest.mark.slow


def assert_same(outputs, expected):
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-6)


@pytest.fixture
def base(server):
    return f"/v2/models/{server.model}"


@pytest.fixture
def version(metadata):
    if not metadata.get("versions"):
        pytest.skip("the model has no versions")
    return metadata["versions"][0]


@pytest.fixture
def triton():
    import tritonclient.http

    return tritonclient.http


@pytest.fixture
def client(server, triton):
    with triton.InferenceServerClient(server.address, network_timeout=20, connection_timeout=20) as client:
        yield client


# --- health and metadata


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready"])
def test_the_server_is_healthy(server, path):
    assert server.ask("GET", path).status == 200


def test_the_server_tells_its_name_version_and_extensions(server):
    told = server.ask("GET", "/v2").json
    assert isinstance(told["name"], str) and isinstance(told["version"], str) and isinstance(told["extensions"], list)


def test_the_server_tells_that_it_has_the_binary_extension(server):
    assert "binary_tensor_data" in server.ask("GET", "/v2").json["extensions"]


def test_the_model_is_described(server, metadata):
    assert metadata["name"] == server.model and isinstance(metadata["platform"], str)
    for tensor in (*metadata["inputs"], *metadata["outputs"]):
        assert set(tensor) >= {"name", "datatype", "shape"}


def test_the_model_is_described_by_version(server, base, version):
    assert server.ask("GET", f"{base}/versions/{version}").json["name"] == server.model


def test_the_model_is_ready(server, base):
    assert server.ask("GET", f"{base}/ready").status == 200


def test_the_model_is_ready_by_version(server, base, version):
    assert server.ask("GET", f"{base}/versions/{version}/ready").status == 200


@pytest.mark.parametrize("path", ["/v2/models/no_such_model", "/v2/models/no_such_model/ready", "/v2/no/such/path"])
def test_what_does_not_exist_is_an_error(server, path):
    assert server.ask("GET", path).error


def test_a_version_that_does_not_exist_is_an_error(server, base, question):
    assert server.ask("GET", f"{base}/versions/no-such-version/ready").error
    assert server.infer(question, f"{base}/versions/no-such-version/infer").error


# --- inference


def test_the_answer_names_the_model(server, question, metadata):
    answer = server.infer(question).json
    assert answer["model_name"] == server.model
    if metadata.get("versions"):
        assert answer["model_version"] in metadata["versions"]
    for output in answer["outputs"]:
        assert set(output) >= {"name", "datatype", "shape", "data"}


def test_outputs_are_those_of_the_metadata(expected, metadata):
    assert set(expected) == {tensor["name"] for tensor in metadata["outputs"]}


def test_nested_data_is_the_same_as_flat(server, question, arrays, expected):
    nested = [{**tensor, "data": arrays[tensor["name"]].tolist()} for tensor in question["inputs"]]
    assert_same(outputs_of(server.infer({"inputs": nested}).json), expected)


def test_a_versioned_path_answers_the_same(server, base, question, version, expected):
    assert_same(outputs_of(server.infer(question, f"{base}/versions/{version}/infer").json), expected)


@pytest.mark.parametrize("request_id", ["7", "ä ö", "x" * 200])
def test_the_id_comes_back(server, question, request_id):
    assert server.infer({"id": request_id, **question}).json["id"] == request_id


def test_unknown_parameters_do_no_harm(server, question, expected):
    asked = {**question, "parameters": {"made_up": "x", "other": 1}}
    assert_same(outputs_of(server.infer(asked).json), expected)


def test_only_the_wanted_outputs_come(server, question, expected):
    wanted = sorted(expected)[0]
    answer = server.infer({**question, "outputs": [{"name": wanted}]}).json
    assert [output["name"] for output in answer["outputs"]] == [wanted]


def test_a_request_without_a_content_type_is_json(server, question, expected):
    assert_same(outputs_of(server.infer(json.dumps(question).encode()).json), expected)


def test_answers_go_to_those_who_asked(server, question):
    def ask(number):
        return server.infer({"id": str(number), **question}).json["id"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(64))) == [str(number) for number in range(64)]


# --- the binary extension


def binary_body(question, arrays, **head):
    inputs = []
    for tensor in question["inputs"]:
        named = {key: value for key, value in tensor.items() if key != "data"}
        inputs.append({**named, "parameters": {"binary_data_size": arrays[tensor["name"]].nbytes}})
    text = json.dumps({"inputs": inputs, **head}).encode()
    tail = b"".join(arrays[tensor["name"]].tobytes() for tensor in question["inputs"])
    return text + tail, {"Inference_Header_Content_Length": str(len(text))}


def test_binary_in_json_out(server, question, arrays, expected):
    body, headers = binary_body(question, arrays)
    assert_same(outputs_of(server.infer(body, **headers).json), expected)


def test_binary_out_by_the_request_s_parameter(server, question, metadata, expected):
    reply = server.infer({**question, "parameters": {"binary_data_output": True}})
    length = int(reply.headers["inference-header-content-length"])
    outputs = json.loads(reply.body[:length])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs]
    assert sum(sizes) == len(reply.body) - length
    assert sizes == [expected[output["name"]].nbytes for output in outputs]


def test_binary_sizes_that_do_not_add_up_are_an_error(server, question, arrays):
    body, headers = binary_body(question, arrays)
    for changed in (body[:-1], body + b"x"):
        assert server.infer(changed, **headers).error
    assert server.infer(body, Inference_Header_Content_Length=str(len(body) + 1)).error


@pytest.mark.parametrize("versioned", [False, True], ids=["unversioned", "versioned"])
@pytest.mark.parametrize("binary_out", [False, True], ids=["json-out", "binary-out"])
@pytest.mark.parametrize("binary_in", [False, True], ids=["json-in", "binary-in"])
def test_tritonclient(triton, client, server, metadata, arrays, expected, binary_in, binary_out, versioned):
    if versioned and not metadata.get("versions"):
        pytest.skip("the model has no versions")
    inputs = []
    for tensor in metadata["inputs"]:
        array = arrays[tensor["name"]]
        inputs.append(triton.InferInput(tensor["name"], list(array.shape), tensor["datatype"]))
        inputs[-1].set_data_from_numpy(array, binary_data=binary_in)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in expected]
    version = metadata["versions"][0] if versioned else ""
    result = client.infer(server.model, inputs, version, outputs, request_id="r")
    assert_same({name: result.as_numpy(name) for name in expected}, expected)
    assert result.get_response()["id"] == "r"


def test_tritonclient_without_wanted_outputs(triton, client, server, metadata, arrays, expected):
    inputs = []
    for tensor in metadata["inputs"]:
        inputs.append(triton.InferInput(tensor["name"], list(arrays[tensor["name"]].shape), tensor["datatype"]))
        inputs[-1].set_data_from_numpy(arrays[tensor["name"]])
    result = client.infer(server.model, inputs)
    assert_same({name: result.as_numpy(name) for name in expected}, expected)


def test_tritonclient_reads_the_error(triton, client, server, question):
    from tritonclient.utils import InferenceServerException

    tensor = triton.InferInput("no_such_input", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    with pytest.raises(InferenceServerException) as raised:
        client.infer(server.model, [tensor])
    assert raised.value.status().startswith("4") and "decoding the response" not in raised.value.message()


# --- refusals: 4xx with {"error": "…"}, never 5xx


def changed(question, **change):
    return {"inputs": [{**question["inputs"][0], **change}, *question["inputs"][1:]]}


def test_no_json_is_an_error(server):
    assert server.infer(b"{").error
    assert server.infer(b"").error
    assert server.infer(b"\xff\xfe\x00").error


@pytest.mark.parametrize("body", [[], {}, {"inputs": []}, {"inputs": {}}, {"inputs": [1]}, {"inputs": None}])
def test_no_request_is_an_error(server, body):
    assert server.infer(body).error


def test_an_input_that_the_model_has_not_is_an_error(server, question):
    assert server.infer(changed(question, name="no_such_input")).error


def test_a_missing_or_doubled_input_is_an_error(server, question):
    assert server.infer({"inputs": [question["inputs"][0]] * 2}).error


def test_an_output_that_the_model_has_not_is_an_error(server, question):
    assert server.infer({**question, "outputs": [{"name": "no_such_output"}]}).error


@pytest.mark.parametrize("datatype", ["BYTES", "FP8", "", None, 3])
def test_a_datatype_that_the_model_does_not_take_is_an_error(server, question, datatype):
    assert server.infer(changed(question, datatype=datatype)).error


@pytest.mark.parametrize("shape", [[], [-1], [0], [1, 1, 1, 1, 1, 1], [2**40, 2**40], "2", None, [1.5]])
def test_a_shape_that_the_model_does_not_take_is_an_error(server, question, shape):
    assert server.infer(changed(question, shape=shape)).error


@pytest.mark.parametrize("data", [[], [1], None, "text", {"a": 1}, [[1], [2, 3]], ["a", "b"], [None, None]])
def test_data_that_does_not_fill_the_shape_is_an_error(server, question, data):
    assert server.infer(changed(question, data=data)).error


def test_another_method_is_an_error(server, base):
    assert server.ask("GET", f"{base}/infer").error
    assert server.ask("DELETE", f"{base}").error


def test_the_server_lives_on_after_all_that(server, question, expected):
    assert_same(outputs_of(server.infer(question).json), expected)
