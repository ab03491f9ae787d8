"""An upstream that keeps what the gateway sent, as bytes, and lets the independent emulator answer.

The emulator notes requests in its own words, without images and documents; what arrives here is what a vendor would get.
Vectors of Gemini, which the emulator does not speak in batches, are answered here.
"""

import http.client
import json
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from .emulator import Emulator
from .local import LocalServer

#: A request with this word in it is answered after `SILENCE_SECONDS`.
SILENCE = "forty seconds of silence"
SILENCE_SECONDS = 40
#: Headers that belong to one connection.
HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "host"}


class Tap(LocalServer):
    """Runs until `stop`; `url` has no path."""

    def __init__(self, emulator: Emulator):
        #: The bodies that arrived, oldest first.
        self.bodies: list[bytes] = []
        tap, target = self, urlsplit(emulator.url).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._forward(b"")

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                tap.bodies.append(body)
                if SILENCE.encode() in body:
                    time.sleep(SILENCE_SECONDS)
                if "batchEmbedContents" in self.path:
                    vectors = [{"values": [0.25, -0.5, 0.75]} for _ in json.loads(body)["requests"]]
                    self._answer(200, [("content-type", "application/json")], [json.dumps({"embeddings": vectors}).encode()])
                else:
                    self._forward(body)

            def _forward(self, body: bytes) -> None:
                connection = http.client.HTTPConnection(target, timeout=60)
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
                self._answer(answer.status, kept, iter(lambda: answer.read1(65536), b""))
                connection.close()

            def _answer(self, status: int, headers, parts) -> None:
                self.send_response(status)
                for name, value in [*headers, ("transfer-encoding", "chunked")]:
                    self.send_header(name, value)
                self.end_headers()
                for part in parts:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                self.wfile.write(b"0\r\n\r\n")

        super().__init__(Handler)

    def arrived(self, mark: str) -> bytes:
        """The last body with this text in it."""
        return next(body for body in reversed(self.bodies) if mark.encode() in body)
