"""The model routes against the served description: whatever is sent, no 5xx, and no status, type or shape beyond it."""

import asyncio

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup

from interlock.foundation.control import openapi
from interlock.gateway import described
from interlock.gateway.adapters import http_server
from interlock.gateway.domain import outcomes
from interlock.gateway.domain.directory import ProviderKind
from tests.gateway.vendors import lead, vendor
from tests.gateway.worlds import world

# Of what a model may be asked its own server judges, here as everywhere; this is about what comes back.
NOT_CHECKED = [
    schemathesis.checks.positive_data_acceptance,
    schemathesis.checks.negative_data_rejection,
    schemathesis.checks.ignored_auth,
]
PATIENCE_S = 120
# What breaks a schema takes its maker much longer than what keeps to it.
EXAMPLES = {GenerationMode.POSITIVE: 20, GenerationMode.NEGATIVE: 8}
HURRY = settings(
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
TEXT = {"type": "string", "maxLength": 40}
ANYTHING = {}
COUNT = {"type": "integer", "minimum": 1, "maximum": 100}
MODEL = {"enum": ["openai", "anthropic", "nothing"]}
STREAM = {"type": "boolean"}
TEMPERATURE = {"type": "number", "minimum": 0, "maximum": 2}


def a_list(of, least=1):
    return {"type": "array", "items": of, "minItems": least, "maxItems": 3}


def an_object(required=(), **properties):
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


def parts(*kinds):
    text = [an_object(["type", "text"], type={"enum": [kind]}, text=TEXT) for kind in kinds]
    return {"oneOf": [TEXT, a_list({"oneOf": text})]}


TOOL = an_object(["name"], name={"enum": ["look"]}, description=TEXT, parameters={"enum": [{"type": "object"}]})
CHAT = an_object(
    ["model", "messages"],
    model=MODEL, stream=STREAM, temperature=TEMPERATURE, max_tokens=COUNT, n=COUNT, user=TEXT, stop=a_list(TEXT),
    messages=a_list(
        an_object(["role", "content"], role={"enum": ["system", "user", "assistant", "tool"]}, content=parts("text"))
    ),
    tools=a_list(an_object(["type", "function"], type={"enum": ["function"]}, function=TOOL)),
    tool_choice={"enum": ["none", "auto", "required"]}, response_format=ANYTHING, stream_options=ANYTHING,
)  # fmt: skip
RESPONSES = an_object(
    ["model", "input"],
    model=MODEL, stream=STREAM, temperature=TEMPERATURE, max_output_tokens=COUNT, instructions=TEXT, store=STREAM,
    input={
        "oneOf": [TEXT, a_list(an_object(["role", "content"], role={"enum": ["user"]}, content=parts("input_text")))]
    },
    tools=a_list({"oneOf": [{**TOOL, "properties": TOOL["properties"] | {"type": {"enum": ["function"]}}}]}),
    previous_response_id=TEXT, reasoning=ANYTHING, metadata=ANYTHING,
)  # fmt: skip
MESSAGES = an_object(
    ["model", "messages", "max_tokens"],
    model=MODEL, stream=STREAM, temperature=TEMPERATURE, max_tokens=COUNT, system=parts("text"), metadata=ANYTHING,
    messages=a_list(an_object(["role", "content"], role={"enum": ["user", "assistant"]}, content=parts("text"))),
    stop_sequences=a_list(TEXT), thinking=ANYTHING, tool_choice=ANYTHING,
    tools=a_list(an_object(["name", "input_schema"], name={"enum": ["look"]}, input_schema={"enum": [{}]})),
)  # fmt: skip
EMBEDDINGS = an_object(
    ["model", "input"], model=MODEL, input={"oneOf": [TEXT, a_list(TEXT)]}, dimensions=COUNT, encoding_format=ANYTHING
)
COUNTED = an_object(["model", "messages"], model=MODEL, messages=MESSAGES["properties"]["messages"], system=TEXT)
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/messages/count_tokens": COUNTED,
}
# What is refused of a generated body by its server alone is no matter of the description.
OF_OTHER_CALLS = {"client_gone", "upstream_stream_cut", "session_expired", "role_denied", "csrf_refused",
                  "admin_rate_limit", "control_unavailable"}  # fmt: skip


def narrowed():
    """The served description, with bodies that a model server may make something of."""
    document = openapi.document([], described())
    kept = {path: {"post": {**document["paths"][path]["post"], "parameters": []}} for path in BODIES}
    for path, body in BODIES.items():
        kept[path]["post"]["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return {**document, "paths": kept}


class Caller:
    """Calls operations with generated input; keeps what their answers broke, and the statuses there were."""

    def __init__(self, url, key):
        self.url = url
        self.headers = {"authorization": f"Bearer {key}"}
        self.broken = []
        self.statuses = set()

    def all(self, mode):
        api = schemathesis.openapi.from_dict(narrowed())
        for result in api.get_all_operations():
            self.one(result.ok(), mode)

    def one(self, operation, mode):
        @settings(HURRY, max_examples=EXAMPLES[mode])
        @given(operation.as_strategy(generation_mode=mode))
        def call(case):
            try:
                answer = case.call(base_url=self.url, headers=self.headers, timeout=PATIENCE_S)
                self.statuses.add((operation.path, answer.status_code))
                case.validate_response(answer, excluded_checks=NOT_CHECKED, headers=self.headers)
            except (Failure, FailureGroup) as error:
                inner = error.exceptions if isinstance(error, FailureGroup) else [error]
                self.broken.extend(f"{operation.path} {type(one).__name__}: {one}"[:800] for one in inner)

        call()


def test_the_description_is_valid_and_names_every_refusal_and_every_path_of_the_edge():
    document = openapi.document([], described())
    OpenAPIV31SpecValidator(document).validate()
    posts = [item["post"] for item in document["paths"].values() if "post" in item]
    for operation in posts:
        told = {code for each in operation["responses"].values() for code in each.get("x-interlock-codes", ())}
        assert set(outcomes._BY_CODE) - OF_OTHER_CALLS <= told
    assert set(http_server._INFERENCE) == {path for path, item in document["paths"].items() if "post" in item}
    assert set(BODIES) == set(http_server._INFERENCE)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
async def test_every_model_route_keeps_to_its_description(store, scope, mode):
    async with vendor() as upstream, world(store, scope, with_engine=False) as edge:
        for kind in (ProviderKind.OPENAI, ProviderKind.ANTHROPIC):
            await lead(edge, str(kind), kind, f"{upstream.url}/v1")
        caller = Caller(edge.url, edge.key)
        await asyncio.to_thread(caller.all, mode)
        assert caller.broken == [], "\n".join(dict.fromkeys(caller.broken))
        wanted = 200 if mode is GenerationMode.POSITIVE else 400
        assert {path for path, status in caller.statuses if status == wanted} == set(BODIES)
