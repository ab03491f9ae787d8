"""Upstreams that can be killed, slowed, spoiled and healed while a load runs, and the load: open loop, over kept connections."""

import asyncio
import json
import random
import socket
import struct
import time
from dataclasses import dataclass, field

from .gateway import TOKEN, USERS
from .wire import chat_body

BODY = json.dumps(
    {
        "id": "chatcmpl-fleet",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "well"}}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "up", "object": "model"}]}).encode()
ERROR = b'{"error":{"message":"scripted","type":"server_error","param":null,"code":null}}'

STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def response(status: int, body: bytes, headers: bytes = b"content-type: application/json\r\n") -> bytes:
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n" % (status, headers, len(body)) + body


def chunk(data: bytes) -> bytes:
    """A chunk of the transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(delta: dict, finish: str | None = None) -> bytes:
    """An event of a chat stream, as a chunk of its transfer coding."""
    common = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "up"}
    data = b"data: " + json.dumps({**common, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
    return chunk(data)


@dataclass
class Node:
    """One upstream. What its answers are like may be changed at any time."""

    name: str
    #: Seconds before an answer to a chat.
    delay: float = 0.002
    #: Share of chats that are answered 500.
    failing: float = 0.0
    #: Status of the models list, which is what probes ask for, and seconds before it.
    models_status: int = 200
    models_delay: float = 0.0
    #: Nothing is answered.
    hanging: bool = False
    #: What ends a stream after so many events: `silence`, `end`, `reset`, or what belongs there, `finish`.
    cut: str = "finish"
    words: int = 3
    #: Bytes that take the place of an answer to a chat; `cut` says what follows them.
    raw: bytes | None = None
    #: Connections close at random up to so many seconds after an answer.
    closes_within: float | None = None
    #: When each chat arrived, and when the first models list was answered since the last start.
    chats: list[float] = field(default_factory=list)
    probed_at: float | None = None
    port: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(7))

    async def start(self) -> None:
        self.writers = set()
        self.probed_at = None
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=2048)
        self.port = self.server.sockets[0].getsockname()[1]

    def kill(self) -> None:
        """As a killed process: nothing listens and every connection is reset."""
        self.server.close()
        for writer in list(self.writers):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _serve_one(self, reader, writer) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            await asyncio.sleep(self.models_delay)
            writer.write(response(self.models_status, MODELS if self.models_status == 200 else ERROR))
            self.probed_at = self.probed_at or time.monotonic()
            return True
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = await reader.readexactly(length)
        self.chats.append(time.monotonic())
        if self.hanging:
            await reader.read(1)
            return False
        await asyncio.sleep(self.delay)
        if self.raw is not None:
            return await self._spoil(reader, writer)
        if b'"stream": true' in body:
            return await self._stream(reader, writer)
        failed = self.rng.random() < self.failing
        writer.write(response(500, ERROR) if failed else response(200, BODY))
        await writer.drain()
        if self.closes_within is not None:
            await asyncio.sleep(self.rng.random() * self.closes_within)
            return False
        return True

    async def _stream(self, reader, writer) -> bool:
        writer.write(STREAM_HEAD)
        writer.write(event({"role": "assistant", "content": ""}))
        for number in range(self.words):
            writer.write(event({"content": f"word{number} "}))
        await writer.drain()
        if self.cut == "finish":
            writer.write(event({}, "stop") + b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
            return True
        return await self._cut(reader, writer)

    async def _spoil(self, reader, writer) -> bool:
        writer.write(self.raw)
        await writer.drain()
        return self.cut == "finish" or await self._cut(reader, writer)

    async def _cut(self, reader, writer) -> bool:
        if self.cut == "silence":
            await reader.read(1)
        elif self.cut == "reset":
            # A reset discards what the peer has not read yet; what is to arrive must have arrived.
            await asyncio.sleep(0.05)
            _reset(writer)
        return False


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Fleet:
    """Nodes `a`, `b`, ... as an asynchronous context manager."""

    def __init__(self, count: int = 3):
        self.nodes = [Node(name) for name in "abcdefgh"[:count]]

    async def __aenter__(self) -> list[Node]:
        for node in self.nodes:
            await node.start()
        return self.nodes

    async def __aexit__(self, *_) -> None:
        for node in self.nodes:
            node.kill()


def config(nodes: list[Node], strategies=("round_robin",), settings: str = "", billing: str = "per_token", copies: int = 1) -> str:
    """One provider for each node, and for each strategy a model of that name over all of them.

    Of several `copies` the further ones are named `STRATEGY-1` and so on: what one has seen of a node is not known to the others.
    """
    text = f"[settings]\n{settings}\n{USERS}"
    for node in nodes:
        text += f'[providers.{node.name}]\nname = "{node.name}"\nbase_url = "http://127.0.0.1:{node.port}/v1"\napi_key = "k"\n'
    for strategy in strategies:
        names = [strategy] + [f"{strategy}-{number}" for number in range(1, copies)]
        for name, place, node in ((name, place, node) for name in names for place, node in enumerate(nodes, 1)):
            if place == 1:
                text += f'[models.{name}]\nname = "{name}"\nstrategy = "{strategy}"\n'
            text += (
                f'[[models.{name}.backends]]\nprovider = "{node.name}"\nmodel = "up"\n'
                f'priority = {place}\nweight = 1.0\nbilling_mode = "{billing}"\n'
            )
    return text


@dataclass
class Answer:
    """What one request of a load came to. Times in seconds; `at` is when it was due."""

    at: float
    status: int
    latency: float
    headers: dict[str, str]
    body: bytes


async def ask(connection, port: int, model: str, due: float, stream: bool = False) -> Answer:
    reader, writer = connection
    body = chat_body(model, "hello", stream)
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {TOKEN}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in head[1:] if line)}
    if "content-length" in headers:
        answer = await reader.readexactly(int(headers["content-length"]))
    else:
        answer = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            answer += (await reader.readexactly(size + 2))[:-2]
        await reader.readexactly(2)
    return Answer(due, int(head[0].split(" ")[1]), time.monotonic() - due, headers, answer)


async def load(port: int, rate: float, seconds: float, models=("round_robin",)) -> list[Answer]:
    """Requests at fixed times, whatever becomes of those before; every answer, in the order of the asking."""
    idle, start = [], time.monotonic()

    async def one(due: float, model: str) -> Answer:
        connection = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        answer = await ask(connection, port, model, due)
        idle.append(connection)
        return answer

    tasks = []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(one(due, models[number % len(models)])))
    answers = await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    return answers


def percentile(values, share: float) -> float:
    """In milliseconds, from seconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))]
