"""How a command reaches the running platform: connection options and a small synchronous client.

Does not retry and knows no route; a refusal ends the command with the platform's own words.
"""

import functools
import http.client
import json
import os
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from interlock.foundation.paths import DataDirectory

TIMEOUT_S: Final = 60.0
DEFAULT_DATA: Final = ".interlock"
PAGE_ROWS: Final = 200


class RefusedError(click.ClickException):
    """The platform said no; exit 1."""

    def __init__(self, status: int, error: Mapping[str, Any], request_id: str) -> None:
        self.status = status
        self.code = str(error.get("code") or f"http_{status}")
        wait_s = error.get("retry_after_s")
        parts = [f"{self.code}: {error.get('message') or 'no message'}"]
        detail = error.get("detail") or {}
        parts += [", ".join(f"{key}={value}" for key, value in detail.items())] if detail else []
        parts += [f"retry in {wait_s} s"] if wait_s else []
        parts += [f"request {request_id}"] if request_id else []
        super().__init__("; ".join(parts))


class Client:
    """Calls with one key, one connection a call."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self._key = key

    def get(self, path: str, **query: Any) -> Any:
        """Return the body of a GET; query values that are None are left out."""
        return self.call("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Return the body of a POST; fields that are None are left out."""
        return self.call("POST", path, body={} if body is None else body)

    def rows(self, path: str, **query: Any) -> dict[str, Any]:
        """Return the whole of a list, all pages of it, in the form of one page."""
        found: list[Any] = []
        cursor = None
        while True:
            page = self.call("GET", path, query={**query, "limit": PAGE_ROWS, "cursor": cursor})
            found += page["data"]
            cursor = page.get("next_cursor")
            if not cursor:
                return {"data": found, "next_cursor": None}

    def call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        is_file: bool = False,
    ) -> Any:
        """Make a call and return its decoded body, the bytes of a file as they came.

        Raises `RefusedError` or `click.ClickException`.
        """
        parts = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=TIMEOUT_S)
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{parts.path}{path}" + (f"?{urllib.parse.urlencode(given)}" if given else "")
        headers = {"authorization": f"Bearer {self._key}", "accept": "application/json"}
        content = None
        if body is not None:
            content = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
            headers["content-type"] = "application/json"
        try:
            connection.request(method, target, content, headers)
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(f"no answer from {self.url}: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if is_file and response.status < 400:
            return raw
        answer = _decoded(raw)
        if response.status >= 400:
            found = answer.get("error", {}) if isinstance(answer, dict) else {}
            raise RefusedError(response.status, found, response.headers.get("x-request-id", ""))
        return answer

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """Yield the events of a stream as `(name, content)` until it ends."""
        parts = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=TIMEOUT_S)
        headers = {"authorization": f"Bearer {self._key}", "accept": "text/event-stream"}
        try:
            connection.request("GET", f"{parts.path}{path}", None, headers)
            response = connection.getresponse()
            if response.status >= 400:
                answer = _decoded(response.read())
                found = answer.get("error", {}) if isinstance(answer, dict) else {}
                raise RefusedError(response.status, found, response.headers.get("x-request-id", ""))
            yield from _events(response)
        except (OSError, http.client.HTTPException) as error:
            raise click.ClickException(f"no answer from {self.url}: {error or type(error).__name__}") from error
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection options as they were given."""

    data: Path | None
    url: str | None
    key: str | None

    @property
    def directory(self) -> DataDirectory:
        """The data directory that is meant, whether or not a platform runs on it."""
        return DataDirectory(self.data or DEFAULT_DATA)

    def client(self) -> Client:
        """Return a client of the running platform."""
        return connect(self.data, self.url, self.key)


def with_connection(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the connection options and, as its first argument, a `Connection`."""

    @click.option("--data", type=click.Path(path_type=Path), help="Data directory of the platform [./.interlock].")
    @click.option("--url", help="Base URL of the platform, with --key.")
    @click.option("--key", "api_key", help="API key.")
    @functools.wraps(command)
    def with_options(data: Path | None, url: str | None, api_key: str | None, **rest: Any) -> Any:
        return command(Connection(data, url, api_key), **rest)

    return with_options


def connected(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the connection options and, as its first argument, a `Client`."""

    @functools.wraps(command)
    def with_client(connection: Connection, **rest: Any) -> Any:
        return command(connection.client(), **rest)

    return with_connection(with_client)


def connect(data: Path | None, url: str | None, key: str | None) -> Client:
    """Return a client by `--data`, else `--url` and `--key`, else the environment, else `./.interlock`."""
    if data is None:
        url = url or os.environ.get("INTERLOCK_URL")
        key = key or os.environ.get("INTERLOCK_API_KEY")
        if url and key:
            return Client(url, key)
    directory = DataDirectory(data or DEFAULT_DATA)
    return Client(
        url or _line(directory.url_file, f"no platform runs on {directory.root}; start one with `interlock up`"),
        key or _line(directory.owner_key, f"{directory.root} has no owner.key; pass --url and --key"),
    )


def quoted(part: str) -> str:
    """Return a name as one segment of a path."""
    return urllib.parse.quote(part, safe="")


def _line(path: Path, otherwise: str) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise click.ClickException(otherwise) from error


def _events(lines: Iterable[bytes]) -> Iterator[tuple[str, Any]]:
    name, content = "message", ""
    for line in lines:
        field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            content += value
        elif not field and content:
            yield name, json.loads(content)
            name, content = "message", ""


def _decoded(raw: bytes) -> Any:
    try:
        return json.loads(raw) if raw else {}
    except ValueError:
        return raw.decode("utf-8", "replace")
