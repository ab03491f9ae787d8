"""Models that are read from a provider's own list."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.gateway import NARROW_TOKEN, TOKEN, USERS


class Provider(BaseHTTPRequestHandler):
    """Serves a list of models and answers each with its name."""

    names = ["claude-a", "gpt-b"]

    def do_GET(self):
        self._send({"object": "list", "data": [{"id": name, "object": "model"} for name in self.names]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
        message = {"role": "assistant", "content": asked}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        self._send({"id": "c", "object": "chat.completion", "created": 1, "model": asked, "choices": [choice]})

    def _send(self, body) -> None:
        body = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def provider():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


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
