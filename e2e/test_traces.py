"""Traces, taken by an independent OTLP receiver and checked against the names of the semantic conventions."""

import pkgutil
import importlib

import opentelemetry.semconv._incubating.attributes as incubating
import opentelemetry.semconv.attributes as stable
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Kind
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GenAiOperationNameValues, GenAiProviderNameValues

from harness.collector import Collector
from harness.gateway import DEMO, TOKEN, USERS, model

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

#: Two providers in a fixed order, of which the first is not there.
FAILOVER = (
    DEMO
    + '[providers.gone]\nname = "Gone"\nbase_url = "http://127.0.0.1:9/v1"\napi_key = "otlp-key-canary"\n'
    + """
[models.second]
name = "second"
strategy = "failover"
[[models.second.backends]]
provider = "gone"
model = "gone-upstream"
priority = 1
billing_mode = "per_request"
[[models.second.backends]]
provider = "demo"
model = "demo-upstream"
priority = 2
billing_mode = "per_request"
"""
)


def known_names() -> set[str]:
    """Every attribute that the conventions define."""
    names = set()
    for package in (stable, incubating):
        for found in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{found.name}")
            names |= {text for name, text in vars(module).items() if name.isupper() and isinstance(text, str)}
    return names


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.stop()


def config(text: str, url: str, ratio: float = 1.0) -> str:
    return f'{text}\n[telemetry]\notlp_endpoint = "{url}"\ntrace_sample_ratio = {ratio}\n'


def chat(gateway, name: str, headers: dict | None = None, **fields):
    body = {"model": name, "messages": [{"role": "user", "content": "prompt-canary"}], **fields}
    return gateway.request("POST", "/v1/chat/completions", body, TOKEN, headers=headers or {})


def test_a_request_and_its_attempts_are_spans_of_the_clients_trace(start, collector):
    gateway = start(config(FAILOVER, collector.url))
    answer = chat(gateway, "second", {"traceparent": f"00-{TRACE}-{PARENT}-01"}, stream=True)
    assert answer.status == 200 and answer.headers["x-berry-attempts"] == "2"
    request, first, second = collector.wait_for(3)
    assert {span.trace_id.hex() for span in (request, first, second)} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    assert {first.parent_span_id, second.parent_span_id} == {request.span_id}
    assert len({request.span_id, first.span_id, second.span_id}) == 3
    assert (request.kind, first.kind, second.kind) == (Kind.SPAN_KIND_SERVER, Kind.SPAN_KIND_CLIENT, Kind.SPAN_KIND_CLIENT)
    assert (request.name, first.name, second.name) == ("POST /v1/chat/completions", "chat gone-upstream", "chat demo-upstream")
    assert request.resource["service.name"] == "berry-api"
    times = [request.start_time_unix_nano, first.start_time_unix_nano, second.start_time_unix_nano]
    ends = [first.end_time_unix_nano, second.end_time_unix_nano, request.end_time_unix_nano]
    assert times == sorted(times) and ends == sorted(ends) and all(a < b for a, b in zip(times[1:], ends))

    assert request.attributes["berry.request_id"] == answer.headers["x-request-id"]
    assert request.attributes["http.response.status_code"] == 200 and request.attributes["user.id"] == "everything"
    assert first.status.code == Status.STATUS_CODE_ERROR and first.attributes["error.type"] == "network"
    assert (first.attributes["server.address"], first.attributes["server.port"]) == ("127.0.0.1", 9)
    assert second.status.code == Status.STATUS_CODE_UNSET
    assert second.attributes["gen_ai.usage.input_tokens"] > 0 and second.attributes["gen_ai.usage.output_tokens"] > 0
    assert second.attributes["gen_ai.response.time_to_first_chunk"] > 0
    assert "gen_ai.usage.input_tokens" not in first.attributes | request.attributes


def test_attributes_are_those_of_the_conventions_and_hold_no_secret(start, collector):
    gateway = start(config(FAILOVER, collector.url))
    chat(gateway, "second", stream=True)
    chat(gateway, "demo-model")
    gateway.request("POST", "/v1/embeddings", {"model": "demo-model", "input": "prompt-canary"}, TOKEN)
    gateway.request("POST", "/v1/chat/completions", {"model": "no-such-model", "messages": []}, TOKEN)
    spans = collector.wait_for(3 + 2 + 2 + 1)
    names = {name for span in spans for name in span.attributes} | set(spans[0].resource)
    known = known_names()
    assert {name for name in names if not name.startswith("berry.")} <= known
    operations = {value.value for value in GenAiOperationNameValues}
    providers = {value.value for value in GenAiProviderNameValues}
    for span in spans:
        assert span.attributes.get("gen_ai.operation.name", "chat") in operations
        assert span.attributes.get("gen_ai.provider.name", "openai") in providers | {"berry.demo"}
        text = str(span.span)
        assert not any(secret in text for secret in ("prompt-canary", "otlp-key-canary", TOKEN))
    refused = [span for span in spans if span.attributes.get("http.response.status_code") == 404]
    # What the caller did wrong is no error of the server.
    assert [span.status.code for span in refused] == [Status.STATUS_CODE_UNSET]


def test_chance_and_the_clients_flag_decide_what_is_traced(start, collector):
    gateway = start(config(DEMO, collector.url, ratio=0.0))
    chat(gateway, "demo-model")
    chat(gateway, "demo-model", {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    chat(gateway, "demo-model", {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert {span.trace_id.hex() for span in collector.wait_for(2)} == {TRACE}
    gateway.stop()
    assert len(collector.spans) == 2


def test_the_last_spans_are_sent_at_the_end_of_the_process(start, collector):
    gateway = start(config(DEMO, collector.url))
    chat(gateway, "demo-model")
    gateway.stop()
    assert len(collector.spans) == 2


def test_a_collector_that_is_not_there_costs_spans_and_nothing_else(start):
    gateway = start(config(DEMO, "http://127.0.0.1:9"))
    assert all(chat(gateway, "demo-model").status == 200 for _ in range(5))
    gateway.stop()
    assert "the collector does not take traces" in gateway.log()


def test_refused_spans_are_counted(start):
    collector = Collector(answer=400)
    gateway = start(config(DEMO, collector.url))
    chat(gateway, "demo-model")
    dropped = b"berry_trace_spans_dropped_total 2"
    gateway.wait_for(lambda: dropped in gateway.request("GET", "/prometheus").body, 10, "the count of lost spans")
    assert collector.refused == 1
    collector.stop()
