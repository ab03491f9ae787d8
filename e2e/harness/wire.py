"""A client on raw sockets for the tests that must control exactly when bytes are sent and connections end."""

import asyncio
import json
import socket
import struct

from .gateway import TOKEN


def chat_body(model: str, text: str, stream: bool) -> bytes:
    """The body of a chat request."""
    return json.dumps({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}).encode()


def chat_request(port: int, model: str, text: str, stream: bool) -> bytes:
    """A whole HTTP/1.1 chat request."""
    return request(port, "/v1/chat/completions", chat_body(model, text, stream))


def request(port: int, path: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 request."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {TOKEN}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client:
    """One connection that sends one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer
        self.received = b""

    @classmethod
    async def send(cls, port: int, model: str, text: str, stream: bool) -> "Client":
        return await cls.send_request(port, chat_request(port, model, text, stream))

    @classmethod
    async def send_request(cls, port: int, request: bytes) -> "Client":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(request)
        await client.writer.drain()
        return client

    async def read_until(self, marker: bytes) -> None:
        while marker not in self.received:
            part = await self.reader.read(65536)
            assert part, f"closed before {marker!r}; got {self.received!r}"
            self.received += part

    async def read_to_end(self) -> bytes:
        while part := await self.reader.read(65536):
            self.received += part
        return self.received

    def leave(self, reset: bool) -> None:
        """Closes at once, by a reset or by an ordinary end."""
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()
