"""A small client for the tour: JSON calls and streams over the public HTTP API, standard library only.

Keeps no connection open and retries nothing, so that what the tour reports is what the platform did.
"""

import http.client
import json
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 180.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished call; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: Any
    seconds: float

    @property
    def request_id(self) -> str:
        """The id under which the platform can tell this call's story."""
        return self.headers.get("x-request-id", "")

    @property
    def error(self) -> dict[str, Any]:
        """The error object of a refusal; empty for a success."""
        return self.body.get("error", {}) if isinstance(self.body, dict) else {}


@dataclass(frozen=True, slots=True)
class Event:
    """One `data:` line of a stream and when it came, in seconds since the call began."""

    text: str
    at_s: float


class Platform:
    """The platform as one key sees it."""

    def __init__(self, url: str, key: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        self.key = key

    def call(self, method: str, path: str, body: object = None, *, idempotency_key: str | None = None) -> Answer:
        """Make one call and read all of its answer."""
        began = time.perf_counter()
        connection, response = self._send(method, path, body, idempotency_key)
        raw = response.read()
        seconds = time.perf_counter() - began
        connection.close()
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return Answer(response.status, _headers(response), json.loads(raw) if is_json else raw, seconds)

    def stream(self, path: str, body: object) -> tuple[Answer, list[Event]]:
        """Make one streamed call; the answer has no body, the events are complete."""
        began = time.perf_counter()
        connection, response = self._send("POST", path, body, None)
        events = [Event(line, time.perf_counter() - began) for line in _data_lines(response)]
        connection.close()
        return Answer(response.status, _headers(response), None, time.perf_counter() - began), events

    def _send(
        self, method: str, path: str, body: object, idempotency_key: str | None
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_S)
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        if body is not None:
            headers["content-type"] = "application/json"
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        return connection, connection.getresponse()


def _headers(response: http.client.HTTPResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.getheaders()}


def _data_lines(response: http.client.HTTPResponse) -> Iterator[str]:
    for raw in response:
        line = raw.decode().rstrip("\r\n")
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()
