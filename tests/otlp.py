"""A collector that takes OTLP over HTTP, as protobuf, on a real socket."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1 import trace_pb2

WAIT_S = 20


@dataclass(frozen=True)
class Seen:
    """One span as it arrived."""

    service: str
    span: trace_pb2.Span

    @property
    def attributes(self) -> dict[str, str | int]:
        values = {a.key: a.value for a in self.span.attributes}
        return {k: v.string_value if v.HasField("string_value") else v.int_value for k, v in values.items()}

    @property
    def is_error(self) -> bool:
        return self.span.status.code == trace_pb2.Status.STATUS_CODE_ERROR


@dataclass
class Collector:
    """Keeps what comes."""

    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    """Every body, uncompressed."""
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self.arrived:
            self.raw.append(body)
            for of_resource in request.resource_spans:
                resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
                for of_scope in of_resource.scope_spans:
                    self.seen += [Seen(resource["service.name"], span) for span in of_scope.spans]
            self.arrived.notify_all()

    def wait_for(self, spans: int) -> list[Seen]:
        """What has come once there are so many spans."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.seen) >= spans, WAIT_S), [
                s.span.name for s in self.seen
            ]
            return list(self.seen)

    def tree(self, spans: list[Seen]) -> dict[str, list[str]]:
        """Each span's name below the name of its parent, as "service name"; "" is above the first."""
        names = {seen.span.span_id: f"{seen.service} {seen.span.name}" for seen in spans}
        below: dict[str, list[str]] = {}
        for seen in spans:
            parent = names.get(seen.span.parent_span_id, "")
            below.setdefault(parent, []).append(f"{seen.service} {seen.span.name}")
        return {parent: sorted(children) for parent, children in below.items()}


@contextmanager
def otlp_collector() -> Iterator[Collector]:
    """A collector on a free port of this machine."""
    collector = Collector()

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            is_right = self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
            self.send_response(200 if is_right else 400)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            if is_right:
                collector.take(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.daemon_threads = True
    collector.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
