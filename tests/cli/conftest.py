import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from click.testing import CliRunner, Result

from interlock.cli import main


@dataclass
class Platform:
    """Answers by method and path, each list once and in turn, and keeps what it was asked."""

    url: str = ""
    answers: dict[tuple[str, str], list[tuple[int, Any]]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def on(self, method: str, path: str, *bodies: Any, status: int = 200) -> None:
        self.answers.setdefault((method, path), []).extend((status, body) for body in bodies)

    def run(self, *arguments: str, **options: Any) -> Result:
        found = CliRunner().invoke(main, [*arguments, "--url", self.url, "--key", "il_live_key"], **options)
        if found.exception is not None and not isinstance(found.exception, SystemExit):
            raise found.exception
        return found


@pytest.fixture
def platform():
    told = Platform()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            told.asked.append(
                (self.command, parts.path, dict(parse_qsl(parts.query)), json.loads(raw) if raw else None)
            )
            told.keys.append(self.headers["authorization"])
            waiting = told.answers.get((self.command, parts.path), [])
            status, body = waiting.pop(0) if waiting else (404, {"error": {"code": "not_found", "message": "Nothing."}})
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("x-request-id", "req_1")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - names of the standard library

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield told
        server.shutdown()
        thread.join()
