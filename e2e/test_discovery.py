"""Models that are read from a provider's own list."""

import json
from http.server import BaseHTTPRequestHandler

import pytest

from harness.gateway import NARROW_TOKEN, TOKEN, USERS
from harness.local import LocalServer, send_json


class Provider(BaseHTTPRequestHandler):
    """Serves a list of models and answers each with its name."""

    names = ["claude-a", "gpt-b"]

    def do_GET(self):
        send_json(self, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        message = {"role": "assistant", "content": asked}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        send_json(self, {"id": "c", "object": "chat.completion", "created": 1, "model": asked, "choices": [choice]})


@pytest.fixture
def provider():
    server = LocalServer(Provider)
    yield f"{server.url}/v1"
    server.stop()


def test_what_a_provider_lists_can_be_asked_for_and_a_reload_asks_again(start, provider):
    gateway = start(
        USERS
        + f'[providers.up]\nbase_url = "{provider}"\nmodels = "auto"\nexpose_models = true\n'
        + '[models.claude]\nname = "claude-*"\n[[models.claude.backends]]\nprovider = "up"\nmodel = "$name"\n'
    )

    def listed() -> list[str]:
        return [item["id"] for item in gateway.request("GET", "/v1/models", token=TOKEN).json()["data"]]

    gateway.wait_for(lambda: listed() == ["claude-a", "up/claude-a", "up/gpt-b"], 10, "the list is read")
    for model, upstream in (("claude-a", "claude-a"), ("up/gpt-b", "gpt-b")):
        assert gateway.chat(model).json()["choices"][0]["message"]["content"] == upstream
    gateway.chat("claude-zzz").error(404)
    gateway.chat("claude-a", token=NARROW_TOKEN).error(403)
    Provider.names = ["claude-a", "claude-c"]
    assert gateway.request("POST", "/admin/reload-config", {}, TOKEN).status == 200
    gateway.wait_for(lambda: "claude-c" in listed() and "up/gpt-b" not in listed(), 10, "the new list is read")
