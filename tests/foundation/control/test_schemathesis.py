"""The whole API against its own description: no 5xx, no status and no shape that the description does not name."""

import re
import urllib.error
import urllib.request
from http.cookiejar import DefaultCookiePolicy

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup

from interlock.foundation.control import Level
from tests.foundation.control.served import ControlThread
from tests.support.store import short_directory

# Together, as each worker would start a control of its own.
pytestmark = [pytest.mark.long, pytest.mark.xdist_group("control")]
# A cursor that was never issued and a name that is taken are well-formed strings; no schema can say so. The check of
# authentication takes a header that it did not make itself for a made-up one; the test below is stricter.
NOT_CHECKED = [schemathesis.checks.positive_data_acceptance, schemathesis.checks.ignored_auth]
# An answer may wait for a core; one that never comes is a failure still.
PATIENCE_S = 180
EXAMPLES = settings(
    max_examples=8,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)


@pytest.fixture(scope="module")
def control():
    # Only a tool calls so fast; its calls are not what the rate is for.
    thread = ControlThread(short_directory(), {"control.mutations_per_s": 100_000})
    yield thread.start()
    thread.stop()


@pytest.fixture(scope="module")
def operations(control):
    """Every operation that ends by itself; streams have tests of their own."""
    api = schemathesis.openapi.from_url(f"{control.url}/openapi.json")
    # The model routes are the edge's, and called where it serves them (tests/gateway/test_described.py).
    found = [each for each in (result.ok() for result in api.get_all_operations()) if not _is_the_edges(each)]
    named = {f"{route.method} {re.sub(r':[a-z]+}', '}', route.path)}" for route in control.registry}
    # The tool leaves out the address of the description itself.
    assert {each.label for each in found} == named - {"GET /openapi.json"}
    return [each for each in found if not _is_stream(each)]


def _is_the_edges(operation):
    return operation.definition.raw.get("x-interlock-served-by") == "edge"


def _is_stream(operation):
    return list(operation.definition.raw["responses"].get("200", {}).get("content", {})) == ["text/event-stream"]


@pytest.fixture(scope="module")
def session():
    """One connection for all calls; it takes no cookie: that of a sign-in would be a credential of all calls after."""
    with requests.Session() as made:
        made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        yield made


def failures(operation, mode, headers, session):
    """Call one operation with generated input; return what its answers broke."""
    found = []

    @EXAMPLES
    @given(operation.as_strategy(generation_mode=mode))
    def call(case):
        try:
            answer = case.call(headers=headers, timeout=PATIENCE_S, session=session)
            # The words of the HTTP server beneath for bytes that are no request; the front door lets none through.
            if answer.content != b"Invalid HTTP request received.":
                case.validate_response(answer, excluded_checks=NOT_CHECKED, headers=headers)
        except (Failure, FailureGroup) as error:
            inner = error.exceptions if isinstance(error, FailureGroup) else [error]
            answered = f"{operation.label} {answer.status_code} {answer.content[:300]!r}"
            found.extend(f"{answered} {type(each).__name__}: {each}"[:900] for each in inner)

    call()
    return found


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_operation_keeps_to_its_description(operations, control, session, mode):
    headers = {"authorization": f"Bearer {control.key}"}
    broken = [each for operation in operations for each in failures(operation, mode, headers, session)]
    assert broken == [], "\n".join(dict.fromkeys(broken))
    # Had a call ended the owner's key, all later ones would have been refused, and that as described.
    alive = urllib.request.Request(f"{control.url}/admin/v1/keys", headers=headers)
    with urllib.request.urlopen(alive, timeout=PATIENCE_S) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("credential", [{}, {"authorization": "Bearer il_live_x"}, {"cookie": "interlock_session=x"}])
def test_no_operation_but_the_public_ones_answers_a_stranger(control, credential):
    answered = {}
    for route in control.registry:
        if route.level is Level.PUBLIC:
            continue
        request = urllib.request.Request(  # the loopback address of this test
            control.url + re.sub(r"{[^}]+}", "x", route.path), method=route.method, headers=credential
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                answered[f"{route.method} {route.path}"] = answer.status
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 401:
                    answered[f"{route.method} {route.path}"] = error.code
    # A page sends a browser without a session to the form.
    assert {status for name, status in answered.items() if "/console" not in name} == set()
