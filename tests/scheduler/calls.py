"""What the tests of the scheduler say to its servers."""

import asyncio
from uuid import UUID

import msgspec

from interlock.contracts.scheduling import GrantRequest, ServiceClass
from interlock.foundation.clock import SystemClock
from interlock.foundation.ids import OrganizationId, WorkspaceId
from interlock.foundation.wire import SseParser
from interlock.scheduler.domain.types import ClassObjective

TOKEN = "internal-token-of-the-tests"
AUTHORIZED = [(b"authorization", f"Bearer {TOKEN}".encode()), (b"content-type", b"application/json")]
# Whoever waits does so however long the machine stands still.
UNHURRIED = {each: ClassObjective(ttft_ms=3_600_000, tpot_ms=None) for each in ServiceClass}
ORGANIZATION = OrganizationId(UUID(int=1))
WORKSPACE = WorkspaceId(UUID(int=2))


def grant_request(request_id="req_1", *, pool="embedded", organization=ORGANIZATION, **changes):
    given = {"service_class": ServiceClass.INTERACTIVE, "input_tokens": 10, "max_tokens": 20, **changes}
    return GrantRequest(
        request_id=request_id, pool=pool, organization_id=organization, workspace_id=WORKSPACE, key_id=None, **given
    )


def chat(text="Say hello.", **parameters):
    return {"messages": [{"role": "user", "content": text}], **parameters}


class EngineCaller:
    """An engine under test, as a client sees it."""

    def __init__(self, client, url, server, model):
        self.client = client
        self.url = url
        self.server = server
        self.model = model

    def request(self, path, body=None, headers=AUTHORIZED):
        content = b"" if body is None else msgspec.json.encode(body)
        return self.client.request("GET" if body is None else "POST", self.url + path, headers, content)

    async def json(self, path, body=None, headers=AUTHORIZED):
        async with self.request(path, body, headers) as answer:
            return answer.status, msgspec.json.decode(await answer.read(1_000_000))

    async def text(self, path):
        async with self.request(path) as answer:
            return (await answer.read(1_000_000)).decode()

    async def events(self, path, body):
        """Return the decoded events of a stream; `[DONE]` is checked and left out."""
        async with self.request(path, body) as answer:
            assert answer.status == 200
            assert answer.headers.get(b"content-type") == b"text/event-stream; charset=utf-8"
            parser = SseParser()
            events = [event.data async for chunk in answer.chunks() for event in parser.feed(chunk)]
        assert events.pop() == "[DONE]"
        return [msgspec.json.decode(event) for event in events]

    async def busy_slots(self):
        return await asyncio.to_thread(self.model.busy_slots)

    async def wait_until(self, condition, seconds=240.0):
        async with asyncio.timeout(seconds):
            while not await condition():
                await SystemClock().sleep(0.02)
