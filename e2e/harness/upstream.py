"""A scripted HTTP/1.1 upstream on raw sockets, in the test's own event loop.

What happens to a request is told by its text (`Call.text`), `KIND PHASE NUMBER`: KIND is `plain` or `streamed`, PHASE
one of `PHASES`. The upstream goes as far as the phase says, sets `reached`, and then waits: either for `release`, after
which it finishes the answer, or for the peer to close, which it notes in `closed_at` (the loop's clock). Only
request bodies with a content-length are read, which is what the gateway sends for JSON.
"""

import asyncio
import json
from dataclasses import dataclass

from .gateway import USERS, model


def config(url: str) -> str:
    """A gateway's configuration with the one model `scripted`, whose upstream is at `url`."""
    provider = f'[providers.scripted]\nname = "Scripted"\nbase_url = "{url}/v1"\napi_key = ""\nmodels = []\n'
    return USERS + provider + model("scripted", "scripted", "scripted")


#: How far an answer goes before the upstream waits.
PHASES = ("before-headers", "before-first-byte", "mid-body")

PLAIN_BODY = json.dumps(
    {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "held " * 20}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 20, "total_tokens": 21},
    }
).encode()


def _event(delta: dict, finish: str | None = None) -> bytes:
    chunk = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "scripted",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


STREAM_START = _event({"role": "assistant", "content": ""}) + _event({"content": "first "})
STREAM_END = _event({"content": "last"}) + _event({}, "stop") + b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Call:
    """One of the API's calls: where it goes, what asks, and how a stream of it begins upstream."""

    path: str
    #: The field that holds the text of the request.
    field: str
    stream_start: bytes = STREAM_START
    kinds: tuple[str, ...] = ("plain", "streamed")

    def body(self, model: str, text: str, stream: bool) -> bytes:
        asked = [{"role": "user", "content": text}] if self.field == "messages" else text
        body = {"model": model, self.field: asked, "max_tokens": 50}
        if self.field == "input":
            del body["max_tokens"]
        return json.dumps({**body, "stream": True} if stream else body).encode()


#: Every call whose answers are held or read; Messages are translated to chat completions on their way.
CALLS = (
    Call("/v1/chat/completions", "messages"),
    Call(
        "/v1/completions",
        "prompt",
        b'data: {"id":"c","object":"text_completion","created":1,"model":"scripted","choices":[{"index":0,"text":"first "}]}\n\n',
    ),
    Call(
        "/v1/responses",
        "input",
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":1,'
        b'"item_id":"i","output_index":0,"content_index":0,"delta":"first "}\n\n',
    ),
    Call("/v1/messages", "messages"),
    Call("/v1/embeddings", "input", kinds=("plain",)),
)


def _text(body: dict) -> str:
    """The text of a request, whatever call it is."""
    if "messages" not in body:
        return body.get("prompt") or body["input"]
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[0]["text"]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Exchange:
    """One scripted request, from the moment the test announces it."""

    def __init__(self, kind: str, phase: str, number: int, call: Call = CALLS[0]):
        self.kind, self.phase, self.number, self.call = kind, phase, number, call
        #: How often it was asked for.
        self.asked = 0
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self.closed = asyncio.Event()
        self.closed_at: float | None = None

    @property
    def script(self) -> str:
        return f"{self.kind} {self.phase} {self.number}"

    def parts(self) -> tuple[bytes, bytes]:
        """The bytes to send before waiting, and those after."""
        if self.kind == "plain":
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(PLAIN_BODY)
            first, rest = PLAIN_BODY[:40], PLAIN_BODY[40:]
        else:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            first, rest = _chunk(self.call.stream_start), _chunk(STREAM_END) + b"0\r\n\r\n"
        return {
            "before-headers": (b"", head + first + rest),
            "before-first-byte": (head, first + rest),
            "mid-body": (head + first, rest),
        }[self.phase]


class Upstream:
    """Serves announced exchanges; use as an asynchronous context manager around a test."""

    def __init__(self):
        self.exchanges: dict[str, Exchange] = {}

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=2048)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    def announce(self, kind: str, phase: str, number: int, call: Call = CALLS[0]) -> Exchange:
        exchange = Exchange(kind, phase, number, call)
        self.exchanges[exchange.script] = exchange
        return exchange

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serves one request of a connection; false when the peer has closed it."""
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        body = json.loads(await reader.readexactly(length))
        exchange = self.exchanges[_text(body)]
        exchange.asked += 1
        before, after = exchange.parts()
        writer.write(before)
        await writer.drain()
        exchange.reached.set()

        released = asyncio.ensure_future(exchange.release.wait())
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait([released, gone], return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            exchange.closed_at = asyncio.get_running_loop().time()
            exchange.closed.set()
            released.cancel()
            # Whether it was an end or a reset makes no difference here.
            gone.exception()
            return False
        gone.cancel()
        await asyncio.wait([gone])
        writer.write(after)
        await writer.drain()
        return True
