"""A log that nobody reads: requests go on, what waits is bounded, what is lost is counted."""

import os

import pytest

from harness.gateway import DEMO, TOKEN

#: More requests than the writer holds lines (`ITEMS_MAX` in berry-api/src/telemetry/writer.rs), each of which leaves one.
REQUESTS = 20_000

BODY = b'{"model":"no-such-model"}'
REFUSED = (
    f"POST /v1/chat/completions HTTP/1.1\r\nhost: e2e\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {len(BODY)}\r\n\r\n".encode()
    + BODY
)


@pytest.fixture
def blocked_pipe(tmp_path):
    """A pipe that is open for reading, so that opening it for writing succeeds, and from which nothing is read."""
    path = tmp_path / "log.pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, reader
    os.close(reader)


def dropped(gateway) -> int:
    lines = gateway.request("GET", "/prometheus").body.decode().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("berry_log_lines_dropped_total "))


def many_requests(gateway) -> None:
    """Sends them one after the other on one connection without waiting for each answer."""
    with gateway.connect() as connection:
        for _ in range(REQUESTS // 100):
            connection.sendall(REFUSED * 100)
            answers = b""
            while answers.count(b"HTTP/1.1 404") < 100 or not answers.endswith(b"}"):
                answers += connection.recv(1 << 20)


def test_requests_go_on_while_the_log_is_blocked(start, blocked_pipe):
    path, reader = blocked_pipe
    gateway = start(f'{DEMO}\n[telemetry]\nlog_file = "{path}"\n')
    many_requests(gateway)
    assert gateway.chat("demo-model").status == 200
    first = dropped(gateway)
    assert first > 0
    before = gateway.resident_kib()
    many_requests(gateway)
    assert gateway.chat("demo-model").status == 200
    assert dropped(gateway) >= first + REQUESTS and gateway.resident_kib() - before < 8 * 1024
    # Read again, the log says what is missing.
    text, notice = b"", b"log lines were dropped"
    os.set_blocking(reader, True)
    while notice not in text:
        text = text[-len(notice) :] + os.read(reader, 1 << 20)
