"""Python clients of every dialect read streams that vendors really sent, replayed byte for byte as upstreams of each dialect.

`BERRY_RECORDINGS` names the folder of the recordings; without it `../shared/recordings` beside the checkout is tried, and
without that the tests are skipped.
"""

import json
import os
import re
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from harness import matrix
from harness.local import LocalServer
from harness.paths import ROOT
from test_matrix_python import CLIENTS

#: The recording that each upstream dialect replays, and its tokens.
RECORDED = {
    "openai": "openai-chat-s-82d77e",
    "anthropic": "anthropic-messages-s-ab05bd",
    "gemini": "gemini-streamGenerateContent-s-da9e0b",
}
#: Where each vendor writes text in a stream.
TEXTS = {"openai": r'"content":("(?:[^"\\]|\\.)*")', "anthropic": r'_delta","text":("(?:[^"\\]|\\.)*")', "gemini": r'"text": ("(?:[^"\\]|\\.)*")'}
FOLDER = Path(os.environ.get("BERRY_RECORDINGS", ROOT.parent / "shared" / "recordings"))


class Replay(LocalServer):
    """Answers by the path: each vendor has its own. `url` has no path."""

    def __init__(self, bodies: dict[str, str]):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                by_path = {"messages": "anthropic", "completions": "openai"}
                dialect = by_path.get(self.path.rsplit("/", 1)[1], "gemini")
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.end_headers()
                self.wfile.write(bodies[dialect].encode())

        super().__init__(Handler)


@pytest.fixture(scope="module")
def recorded() -> dict[str, str]:
    file = FOLDER / "recordings.jsonl"
    if not file.exists():
        pytest.skip(f"no recordings at {FOLDER}")
    bodies = {line["id"]: line["body"] for line in map(json.loads, file.read_text().splitlines())}
    return {dialect: bodies[name] for dialect, name in RECORDED.items()}


@pytest.fixture(scope="module")
def gateway(start, recorded):
    replay = Replay(recorded)
    yield start(matrix.config(replay))
    replay.stop()


@pytest.mark.parametrize("upstream", RECORDED)
# OpenAI's Responses pass as bytes to OpenAI's upstreams, for which there is another recording than that of chat completions.
@pytest.mark.parametrize("name", [name for name in CLIENTS if name != "openai-python-responses"])
def test_a_recorded_stream_reads_as_it_was_sent(gateway, recorded, name, upstream):
    pieces, (prompt, completion) = CLIENTS[name](gateway.url).stream(upstream)
    sent = "".join(json.loads(text) for text in re.findall(TEXTS[upstream], recorded[upstream]))
    assert len(sent) > 10 and "".join(pieces) == sent
    assert prompt > 0 and completion > 0
