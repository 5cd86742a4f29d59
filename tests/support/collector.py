"""A collector of OpenTelemetry: takes what comes over OTLP/HTTP, as the published protocol has it. Keeps all spans."""

import gzip
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector:
    """`status` is what it answers; `spans` are pairs of resource attributes and span, as they came."""

    def __init__(self):
        self.spans = []
        self.headers = []
        self.status = 200
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                content = self.rfile.read(int(self.headers["content-length"]))
                owner.take(self.path, dict(self.headers.items()), content)
                self.send_response(owner.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def take(self, path, headers, content):
        assert path == "/v1/traces"
        self.headers.append({name.lower(): value for name, value in headers.items()})
        if self.status != 200:
            return
        asked = ExportTraceServiceRequest.FromString(gzip.decompress(content))
        for each in asked.resource_spans:
            resource = attributes(each.resource)
            self.spans += [(resource, span) for scope in each.scope_spans for span in scope.spans]

    def of_trace(self, trace_id):
        """Return the spans of a trace, by their start."""
        found = [span for _, span in list(self.spans) if span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda span: (span.start_time_unix_nano, span.kind))

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)


def attributes(told):
    """Return the attributes of a resource, a span or an event by name."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in told.attributes}


@contextmanager
def collecting():
    """Yield a collector that listens."""
    each = Collector()
    try:
        yield each
    finally:
        each.close()
