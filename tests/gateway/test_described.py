"""The model routes against a description of them: whatever is sent, no 5xx, and no status, type or shape beyond it."""

import asyncio

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup

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
STREAMED = {"/v1/chat/completions", "/v1/responses", "/v1/messages"}
TOLD = {
    "type": "object",
    "required": ["request_id", "code", "rule", "story_url"],
    "properties": {name: {"type": "string", "minLength": 1} for name in ("request_id", "code", "rule", "story_url")},
}
REFUSED = {
    "openai": {
        "type": "object",
        "required": ["error", "interlock"],
        "properties": {
            "interlock": TOLD,
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string", "minLength": 1},
                    "type": {"enum": ["invalid_request_error", "not_found_error"]},
                    "param": {"type": ["string", "null"]},
                    "code": {"enum": ["invalid_json", "invalid_request", "unsupported_parameter", "model_not_found"]},
                },
            },
        },
    },
    "anthropic": {
        "type": "object",
        "required": ["type", "error", "request_id", "interlock"],
        "properties": {
            "type": {"const": "error"},
            "interlock": TOLD,
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {"type": {"enum": ["invalid_request_error", "not_found_error"]}},
            },
        },
    },
}
NAMED = {name: {"required": True, "schema": {"type": "string"}} for name in ("x-request-id", "request-id")}
ROUTED = {
    name: {"required": True, "schema": {"type": "string"}} for name in ("x-interlock-route", "x-interlock-attempts")
}


def operation(path, body):
    family = "anthropic" if path.startswith("/v1/messages") else "openai"
    refusal = {"application/json": {"schema": REFUSED[family]}}
    answered = {"application/json": {"schema": {"type": "object"}}}
    if path in STREAMED:
        answered["text/event-stream"] = {"schema": {"type": "object", "required": ["data"]}}
    responses = {str(status): {"description": "refused", "headers": NAMED, "content": refusal} for status in (400, 404)}
    responses["200"] = {"description": "answered", "headers": NAMED | ROUTED, "content": answered}
    asked = {"required": True, "content": {"application/json": {"schema": body}}}
    return {"post": {"operationId": path, "requestBody": asked, "responses": responses}}


DESCRIPTION = {
    "openapi": "3.1.0",
    "info": {"title": "The model routes", "version": "1"},
    "paths": {path: operation(path, body) for path, body in BODIES.items()},
}


class Caller:
    """Calls operations with generated input; keeps what their answers broke, and the statuses there were."""

    def __init__(self, url, key):
        self.url = url
        self.headers = {"authorization": f"Bearer {key}"}
        self.broken = []
        self.statuses = set()

    def all(self, mode):
        api = schemathesis.openapi.from_dict(DESCRIPTION)
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


@pytest.mark.timeout(600)
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
