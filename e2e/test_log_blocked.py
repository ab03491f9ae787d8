"""A log that nobody reads: requests go on, what waits is bounded, what is lost is counted."""

import os

import pytest

from harness.gateway import DEMO

#: Items that the writer holds at most (`ITEMS_MAX` in berry-api/src/telemetry/writer.rs).
HELD = 16 * 1024


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


def test_requests_go_on_while_the_log_is_blocked(start, blocked_pipe):
    path, reader = blocked_pipe
    # At level trace a request leaves tens of lines, of our own and of the libraries.
    gateway = start(f'{DEMO}\n[telemetry]\nlog_file = "{path}"\n', RUST_LOG="trace")
    asked = 0

    def lost():
        nonlocal asked
        for _ in range(50):
            assert gateway.chat("demo-model").status == 200
            asked += 1
        return dropped(gateway)

    gateway.wait_for(lost, 120, "lines that the bounded queue had no room for")
    before = gateway.resident_kib()
    for _ in range(200):
        assert gateway.chat("demo-model").status == 200
    assert gateway.resident_kib() - before < 8 * 1024
    # Read again, the log says what is missing.
    os.set_blocking(reader, True)
    text, notice = b"", b"log lines were dropped"
    while notice not in text:
        text = text[-len(notice) :] + os.read(reader, 1 << 20)
    os.set_blocking(reader, False)
    # The pipe must not fill again while the process ends.
    gateway.process.terminate()
    while gateway.exit_code(within=0.02) is None:
        try:
            os.read(reader, 1 << 20)
        except BlockingIOError:
            pass
