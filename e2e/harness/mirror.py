"""An upstream of every dialect that keeps the last body it got and always gives the same short answer."""

import json
from http.server import BaseHTTPRequestHandler

from .local import LocalServer

ANSWERS = {
    "chat/completions": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "ok"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    },
    "messages": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "ok"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "generateContent": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "ok"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1},
    },
}


class Mirror(LocalServer):
    """Runs until `stop`; `url` has no path."""

    def __init__(self):
        #: The body of the last request.
        self.body = b""
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                mirror.body = self.rfile.read(int(self.headers["content-length"]))
                answer = next(answer for name, answer in ANSWERS.items() if self.path.partition("?")[0].endswith(name))
                said = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

        super().__init__(Handler)
