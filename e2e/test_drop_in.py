"""The same program, once against the upstream itself and once through the gateway: what it gets must be the same.

The upstream is `berry-cli mock`, whose answers follow from the request alone, apart from ids and times.
"""

import http.client
import json
import re
import signal
import subprocess

import pytest

from harness.gateway import PORTS, TOKEN, USERS, model
from harness.paths import BINARY, environment

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Say hello"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}}
#: Name of the case: path and body.
REQUESTS = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat, sampled": ("/v1/chat/completions", {**CHAT, "temperature": 0.5, "top_p": 0.9, "presence_penalty": 1, "frequency_penalty": 1, "max_tokens": 20, "seed": 7}),
    "chat, streamed": ("/v1/chat/completions", {**CHAT, "stream": True}),
    "chat, streamed with usage": ("/v1/chat/completions", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    "chat with a tool": ("/v1/chat/completions", {**CHAT, "tools": [TOOL]}),
    "chat with a tool, streamed": ("/v1/chat/completions", {**CHAT, "tools": [TOOL], "stream": True}),
    "chat in JSON": ("/v1/chat/completions", {**CHAT, "response_format": {"type": "json_object"}}),
    "completion": ("/v1/completions", {"model": "m", "prompt": "Once upon", "max_tokens": 9}),
    "completion, streamed": ("/v1/completions", {"model": "m", "prompt": "Once upon", "max_tokens": 9, "stream": True}),
    "embedding": ("/v1/embeddings", {"model": "m", "input": ["one", "two"]}),
    "response": ("/v1/responses", {"model": "m", "input": "Say hello"}),
    "response, streamed": ("/v1/responses", {"model": "m", "input": "Say hello", "stream": True}),
    "moderation": ("/v1/moderations", {"model": "m", "input": "hello"}),
    "a refused parameter": ("/v1/chat/completions", {**CHAT, "temperature": "warm"}),
}


@pytest.fixture(scope="module")
def addresses(start):
    """The upstream's address and the gateway's."""
    upstream = f"127.0.0.1:{next(PORTS)}"
    mock = subprocess.Popen([BINARY.parent / "berry-cli", "mock", "--listen", upstream], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    # Says that it listens.
    assert mock.stderr.readline()
    provider = f'[providers.up]\nbase_url = "http://{upstream}/v1"\napi_key = "k"\n'
    gateway = start(USERS + provider + model("m", "up", "m"))
    yield upstream, gateway.address
    mock.send_signal(signal.SIGINT)
    mock.communicate(timeout=20)


def asked(address: str, path: str, body: dict) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(address, timeout=30)
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    # What differs from request to request at the upstream itself.
    text = re.sub(r'"(id|item_id|response_id|call_id)":\s*"[^"]*"', r'"\1":"…"', text)
    text = re.sub(r'"(created|created_at|completed_at)":\s*\d+', r'"\1":0', text)
    return answer.status, answer.getheader("content-type"), text


@pytest.mark.parametrize("case", REQUESTS)
def test_a_client_gets_what_the_upstream_itself_would_have_answered(addresses, case):
    path, body = REQUESTS[case]
    upstream, gateway = addresses
    direct = asked(upstream, path, body)
    assert asked(upstream, path, body) == direct, "the upstream repeats itself"
    assert asked(gateway, path, body) == direct
