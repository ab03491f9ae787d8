"""Canaries: a provider's key, a user's token and a prompt appear nowhere that an operator or another user can look."""

import http.server
import json
import signal
from pathlib import Path

import pytest

from harness.gateway import TOKEN, USERS, model
from harness.local import LocalServer, send_json

KEY = "sk-canary-of-a-provider-key-0123456789"
STRANGER = "canary-of-an-unknown-token"
PROMPT = "canary-of-a-prompt"

ADMIN_PAGES = (
    "/admin/backend-health",
    "/admin/system-stats",
    "/admin/model-weights",
    "/admin/config",
    "/admin/config/history",
    "/admin/changes",
)
PAGES = ("/health", "/v1/health", "/metrics", "/prometheus", "/smart-ai/weights", "/v1/models", "/")


class Refusing(http.server.BaseHTTPRequestHandler):
    """Answers 200 or, to the model `refused`, a 401 that repeats the key, as some vendors do."""

    seen: list[str] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.seen.append(self.headers["authorization"])
        status, answer = 200, {"choices": [{"message": {"role": "assistant", "content": "hello"}}], "usage": {}}
        if body["model"] == "refused":
            status, answer = 401, {"error": {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}}
        send_json(self, answer, status)


@pytest.fixture
def upstream():
    server = LocalServer(Refusing)
    yield f"{server.url}/v1"
    server.stop()


def config(upstream: str) -> str:
    def provider(name: str, url: str) -> str:
        return f'[providers.{name}]\nname = "{name}"\nbase_url = "{url}"\napi_key = "{KEY}"\nmodels = []\n'

    return (
        USERS
        + provider("vendor", upstream)
        + provider("gone", "http://127.0.0.1:9/v1")
        + model("good", "vendor", "good")
        + model("refused", "vendor", "refused")
        + model("gone", "gone", "gone")
    )


def test_canaries_appear_nowhere(start, upstream):
    gateway = start(config(upstream), RUST_LOG="trace")
    replies = []
    for name in ("good", "refused", "gone", "unknown-model"):
        replies.append(gateway.chat(name, PROMPT))
        replies.append(gateway.chat(name, PROMPT, stream=True))
    replies.append(gateway.chat("good", PROMPT, token=STRANGER))
    replies.append(gateway.request("POST", "/v1/chat/completions", f'{{"model": "good", {PROMPT}'.encode(), TOKEN))
    replies += [gateway.request("GET", page, token=TOKEN) for page in (*PAGES, *ADMIN_PAGES)]
    assert f"Bearer {KEY}" in Refusing.seen, "the key reached its upstream"
    assert {200, 401, 404} <= {reply.status for reply in replies}

    process = Path(f"/proc/{gateway.process.pid}/cmdline").read_bytes().decode()
    told = [process, *(f"{reply.headers} {reply.body.decode()}" for reply in replies)]
    gateway.wait_for(lambda: gateway.log().count("Backend selected") >= 10, 5, "the access lines")
    log = gateway.log()
    assert " TRACE " in log or " DEBUG " in log
    for canary in (KEY, TOKEN, STRANGER, PROMPT):
        assert canary not in log, canary
        assert not [text for text in told if canary in text], canary


def test_the_texts_that_scripts_grep_for_are_in_the_log(start, upstream):
    probed = config(upstream).replace('model = "gone"\nbilling_mode = "per_request"', 'model = "gone"')
    gateway = start(probed, RUST_LOG="debug")
    gateway.chat("good")
    gateway.chat("good", token=STRANGER)
    (gateway.log_path.parent / "gateway.toml").write_text("not a configuration")
    gateway.process.send_signal(signal.SIGHUP)
    texts = ("Starting Berry API", "selected backend", "Authentication failed", "latency_ms=", "health_check", "ERROR")
    gateway.wait_for(lambda: all(text in gateway.log() for text in texts), 10, "every text")
