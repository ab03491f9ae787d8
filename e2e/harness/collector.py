"""An OTLP/HTTP receiver that decodes with OpenTelemetry's own generated classes and keeps every span."""

import http.server
import time

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .local import LocalServer


def value(any_value):
    kind = any_value.WhichOneof("value")
    return getattr(any_value, kind)


class Span:
    """One span, with its attributes as a dictionary."""

    def __init__(self, span, resource: dict):
        self.span, self.resource = span, resource
        self.attributes = {pair.key: value(pair.value) for pair in span.attributes}
        assert len(self.attributes) == len(span.attributes), "an attribute stands there twice"

    def __getattr__(self, name):
        return getattr(self.span, name)


class Collector(LocalServer):
    """Takes spans at `url` until `stop`. `answer` is the status that it gives; only what it takes with 200 is kept."""

    def __init__(self, answer: int = 200):
        self.answer, self.spans, self.refused = answer, [], 0
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf"
                if collector.answer == 200:
                    collector.keep(body)
                else:
                    collector.refused += 1
                self.send_response(collector.answer)
                self.send_header("content-length", "0")
                self.end_headers()

        super().__init__(Handler)

    def keep(self, body: bytes) -> None:
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            resource = {pair.key: value(pair.value) for pair in resource_spans.resource.attributes}
            for scope_spans in resource_spans.scope_spans:
                assert scope_spans.scope.name == "berry-api"
                self.spans.extend(Span(span, resource) for span in scope_spans.spans)

    def wait_for(self, count: int, seconds: float = 20) -> list[Span]:
        deadline = time.monotonic() + seconds
        while len(self.spans) < count:
            assert time.monotonic() < deadline, f"{len(self.spans)} of {count} spans within {seconds} s"
            time.sleep(0.02)
        return self.spans
