"""One running `berry-api` process and the few plain HTTP calls that most tests need."""

import http.client
import itertools
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .paths import BINARY, environment

#: Tokens of the users in `USERS`.
TOKEN = "e2e-token-that-may-use-everything"
NARROW_TOKEN = "e2e-token-that-may-use-one-model"
DISABLED_TOKEN = "e2e-token-of-a-disabled-user"

USERS = f"""
[users.everything]
name = "Everything"
token = "{TOKEN}"
allowed_models = []
tags = ["admin"]
[users.narrow]
name = "Narrow"
token = "{NARROW_TOKEN}"
allowed_models = ["only-this"]
[users.disabled]
name = "Disabled"
token = "{DISABLED_TOKEN}"
enabled = false
"""

#: The demo upstream, quick.
DEMO_PROVIDER = """
[providers.demo]
name = "Demo"
backend_type = "demo"
models = []
demo = { first_token_latency_ms = 5, token_latency_ms = 1 }
"""


def model(name: str, provider: str, upstream_model: str) -> str:
    """A models table with one backend, which no probe visits (`per_request`), so that only the test's own traffic counts."""
    key = re.sub(r"[^a-z0-9]", "_", name)
    return f"""
[models.{key}]
name = "{name}"
strategy = "round_robin"
[[models.{key}.backends]]
provider = "{provider}"
model = "{upstream_model}"
billing_mode = "per_request"
"""


#: The smallest useful configuration: everything that a test of the gateway itself needs.
DEMO = USERS + DEMO_PROVIDER + model("demo-model", "demo", "demo-model")


@dataclass
class Response:
    """A whole answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)

    def error(self, status: int) -> dict:
        """The error object, after checking what holds for every error the gateway makes."""
        assert self.status == status, (self.status, self.body[:500])
        assert self.headers["content-type"].startswith("application/json"), self.headers
        assert self.headers.get("x-request-id"), self.headers
        error = self.json()["error"]
        assert {"message", "type", "param", "code"} <= error.keys(), error
        assert error["message"] and isinstance(error["message"], str), error
        return error


def parse_response(raw: bytes) -> Response:
    """Reads one HTTP/1.1 answer with a content-length from the bytes of a connection."""
    head, _, body = raw.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    return Response(int(status_line.split(" ")[1]), headers, body)


def _ports():
    """Free ports below the range that outgoing connections use, from a stretch of its own for each worker process."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw15").removeprefix("gw"))
    for port in itertools.cycle(range(20_000 + 700 * worker, 20_700 + 700 * worker)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port


PORTS = _ports()


class Gateway:
    """A `berry-api` process under test.

    `config` is the text of its configuration file; pass a `Path` to use that file as it is. Standard output and error go
    to one log file in `directory`, which is also the working directory and holds the data directory.
    """

    def __init__(self, config: str | Path, directory: Path, *, wait: bool = True, tls: bool = False, preexec_fn=None, **env: str):
        if isinstance(config, Path):
            path = config
        else:
            path = directory / "gateway.toml"
            path.write_text(config)
            path.chmod(0o600)
        self.port = next(PORTS)
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http{'s' if tls else ''}://{self.address}"
        self.log_path = directory / f"gateway-{self.port}.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [BINARY, "--config", path, "--bind", self.address],
                cwd=directory,
                preexec_fn=preexec_fn,
                env=environment(BERRY_DATA_DIR=str(directory / "data"), **env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self._wait_until_ready(tls)

    def _wait_until_ready(self, tls: bool) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                if tls:
                    socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                    return
                if self.request("GET", "/readyz").status == 200:
                    return
            except OSError:
                pass
            # The pause between two tries ends early when the process does.
            if self.exit_code(within=0.02) is not None:
                break
        self.process.kill()
        raise AssertionError(f"the gateway did not become ready; its log:\n{self.log()}")

    def exit_code(self, within: float) -> int | None:
        """The exit code, waiting at most `within` seconds for it; `None` while the process runs."""
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            return None

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def resident_kib(self) -> int:
        """Resident memory of the process in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)[1])

    def peak_kib(self) -> int:
        """The most resident memory that the process has had, in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)[1])

    def request(self, method: str, path: str, body=None, token: str | None = None, headers=None, timeout: float = 30) -> Response:
        """One request on a connection of its own. A `body` that is not bytes is sent as JSON."""
        headers = {"connection": "close", **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        if body is not None:
            headers.setdefault("content-type", "application/json")
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def chat(self, model: str, text: str = "hello", token: str | None = TOKEN, **fields) -> Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        return self.request("POST", "/v1/chat/completions", body, token)

    def connect(self, timeout: float = 30) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def in_flight(self) -> int:
        """Requests that the gateway counts as being worked on, without the one that asks."""
        return self.request("GET", "/metrics").json()["http_requests_in_flight"] - 1

    def wait_for(self, condition, seconds: float, what: str):
        """Asks `condition` again and again until it holds, at most for so many seconds, and returns what it said."""
        deadline = time.monotonic() + seconds
        while True:
            answer = condition()
            if answer:
                return answer
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            assert self.exit_code(within=0.005) is None, f"the gateway ended; its log:\n{self.log()}"

    def refuses_connections(self) -> bool:
        try:
            self.connect(timeout=1).close()
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:
            # The listener went away while the connection waited to be accepted.
            return False
        return False

    def stop(self) -> None:
        """Ends the process the way an operator does and checks that it ended well."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the gateway did not stop; its log:\n{self.log()}") from None
        assert code == 0, f"exit code {code}; log:\n{self.log()}"


def read_until_closed(connection: socket.socket, within: float) -> bytes:
    """All bytes up to the peer's end of the connection, which must come within so many seconds."""
    deadline = time.monotonic() + within
    received = b""
    while True:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([connection], [], [], left)[0], f"still open after {within} s; got {received[:300]!r}"
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return received
        if not part:
            return received
        received += part
