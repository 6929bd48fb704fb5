"""schemathesis against the running server: what it does is what /openapi.json says, whatever is sent."""

import pytest
from hypothesis import HealthCheck, given, settings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", ["positive", "negative"])
def test_the_server_is_as_described_whatever_is_sent(served, kind):
    import schemathesis
    from schemathesis.specs.openapi import checks

    mode, is_wrong = schemathesis.GenerationMode(kind), kind == "negative"
    wanted = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{served.port}/openapi.json")
    tried, meant = set(), set()
    for found in schema.get_all_operations():
        operation = found.ok()
        has_body = operation.definition.raw.get("requestBody") is not None
        if is_wrong and not has_body:
            continue  # nothing in it could be wrong

        meant.add(operation.label)

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=8 if has_body else 3, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        def check(case):
            tried.add(case.operation.label)
            for headers in ({}, {"Authorization": f"Bearer {served.admin_token}"}):
                case.call_and_validate(headers=headers, checks=wanted)

        check()
    assert meant - tried == set()
    assert len(meant) == (6 if is_wrong else 16)  # all but the description itself
