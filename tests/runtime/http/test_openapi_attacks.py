"""schemathesis against the running server: what it does is what /openapi.json says, whatever is sent."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

pytestmark = pytest.mark.slow
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_server_is_as_described_whatever_is_sent(served, mode):
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{served.port}/openapi.json")
    tried, meant = set(), set()
    for found in schema.get_all_operations():
        operation = found.ok()
        has_body = operation.definition.raw.get("requestBody") is not None
        if mode is GenerationMode.NEGATIVE and not has_body:
            continue  # nothing in it could be wrong

        meant.add(operation.label)

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=8 if has_body else 3, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        )
        def check(case):
            tried.add(case.operation.label)
            for headers in ({}, {"Authorization": f"Bearer {served.admin_token}"}):
                case.call_and_validate(headers=headers, checks=CHECKS)

        check()
    assert meant - tried == set()
    assert len(meant) == (6 if mode is GenerationMode.NEGATIVE else 16)  # all but the description itself
