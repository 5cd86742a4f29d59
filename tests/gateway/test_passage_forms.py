"""A story takes the same over from its request, whether a kernel copies it or Python does."""

from types import SimpleNamespace
from uuid import UUID

import pytest

from interlock.foundation.native import load
from interlock.foundation.telemetry import Attempt, Outcome, Spool, Usage
from interlock.gateway.service import passage as module
from interlock.gateway.service.passage import Passage
from tests.foundation.telemetry.worlds import CLOCK, SMALL, drain


def told(spool):
    """What is on disk of a request of which everything is known, in the middle and at its end."""
    request = SimpleNamespace(
        received_us=CLOCK.now_us(), target=b"/v1/messages?x=1", path="/v1/messages", method="POST"
    )
    passage = Passage(SimpleNamespace(request=request), UUID(int=1), spool, CLOCK)
    passage.decide("received", "http.request", "ok", "POST")
    begun = passage.open()
    passage.organization_id, passage.workspace_id, passage.key_id = UUID(int=2), UUID(int=3), UUID(int=4)
    passage.client_request_id, passage.trace_id, passage.dialect = "mine", "0af7", "anthropic"
    passage.is_stream, passage.alias, passage.tags, passage.arm = True, "default", "k=v", "canary"
    passage.note()
    noted = spool._ring.payload(begun.live_from)
    passage.attempts.append(Attempt(n=1, deployment="a", status=200, connect_ms=1.5))
    passage.usage, passage.degraded, passage.is_bypassed = Usage(input_tokens=3), "model=b", True
    passage.end(Outcome.STREAM_CUT, 502, "edge.cut", "upstream_error")
    passage.close(is_told=True)
    return noted, *drain(spool)


@pytest.mark.skipif(
    load("interlock.foundation.telemetry._native_story") is None, reason="there is no compiled form here"
)
def test_both_forms_take_over_the_same(tmp_path, monkeypatch):
    compiled = told(Spool(tmp_path / "compiled.ring", CLOCK, SMALL))
    monkeypatch.setattr(module, "_copy_known", None)
    monkeypatch.setattr(module, "_copy_end", None)
    assert told(Spool(tmp_path / "python.ring", CLOCK, SMALL)) == compiled
    assert (compiled[1].tags, compiled[1].stream, compiled[1].error_code) == ("k=v", True, "upstream_error")
