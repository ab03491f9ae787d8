"""A Redis server of a test's own, and a wire between it and a gateway that can be slowed and cut."""

import asyncio
import socket
import subprocess
import threading
import time

from .gateway import PORTS


class Store:
    """A `redis-server` that keeps nothing on disk. It can be stopped and started again at the same port, empty."""

    def __init__(self, *options: str):
        self.port = next(PORTS)
        self.options = options
        self.process = None
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self.options]
        self.process = subprocess.Popen([*command, "--loglevel", "warning"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                if self.command("PING") == "PONG":
                    return
            except OSError:
                time.sleep(0.01)
        raise AssertionError("redis-server did not start")

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self, *words: str) -> str:
        """One command with a plain answer: a status, a number or a text."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            parts = b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in words)
            connection.sendall(b"*%d\r\n" % len(words) + parts)
            answer = connection.makefile("rb")
            first = answer.readline().decode().rstrip()
            if first.startswith("$"):
                return answer.read(int(first[1:])).decode()
            assert not first.startswith("-"), first
            return first[1:]

    def calls(self, command: str) -> int:
        """How often a command was called since the server started."""
        for line in self.command("INFO", "commandstats").splitlines():
            name, _, figures = line.partition(":")
            if name == f"cmdstat_{command}":
                return int(dict(part.split("=") for part in figures.split(","))["calls"])
        return 0

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Wire:
    """A TCP proxy to a port. Bytes in both directions are held for `delay` seconds; `cut` drops them and what is connected."""

    def __init__(self, port: int):
        self.target = port
        self.port = next(PORTS)
        self.delay = 0.0
        self.cut = False
        self._writers = set()
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def sever(self) -> None:
        """Ends every connection and takes no other until `mend`."""
        self.cut = True
        self._loop.call_soon_threadsafe(lambda: [writer.transport.abort() for writer in list(self._writers)])

    def mend(self) -> None:
        self.cut = False

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self, ready: threading.Event) -> None:
        async def serve() -> None:
            self._ended = asyncio.Event()
            async with await asyncio.start_server(self._serve, "127.0.0.1", self.port):
                ready.set()
                await self._ended.wait()
                for writer in self._writers:
                    writer.transport.abort()

        # Cancels what still passes bytes, and waits for it.
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(serve())

    async def _serve(self, reader, writer) -> None:
        if self.cut:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))
        self._writers -= {writer, far_writer}

    async def _pass(self, reader, writer) -> None:
        try:
            while data := await reader.read(65536):
                due = time.monotonic() + self.delay
                # Each part leaves when its own time has come, in order, as on a long line.
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                writer.write(data)
                await writer.drain()
        except (ConnectionError, OSError):
            pass
        finally:
            writer.close()
