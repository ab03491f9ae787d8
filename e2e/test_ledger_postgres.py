"""The ledger against a real PostgreSQL server: the suite that a plain `cargo test` runs against SQLite, and a server that goes away."""

import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from harness.gateway import DEMO, TOKEN, Gateway
from harness.paths import ROOT, environment

#: Requests whose times are compared, in each of several windows.
WINDOW = 150


def installed(name: str) -> Path:
    """A program of the newest server that is installed; Debian keeps them out of the path."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    found = shutil.which(name, path=os.pathsep.join([*map(str, reversed(folders)), os.environ["PATH"]]))
    assert found, f"{name} is missing: install postgresql"
    return Path(found)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A server that keeps nothing; it refuses to run as root, so root lends it the user `postgres`."""

    def __init__(self) -> None:
        who = {"user": "postgres"} if os.getuid() == 0 else {}
        self.home = Path(tempfile.mkdtemp(prefix="berry-postgres-"))
        if who:
            shutil.chown(self.home, "postgres")
        data, self.port = self.home / "data", free_port()
        self.how = {"check": True, "stdout": subprocess.DEVNULL, "cwd": self.home, **who}
        subprocess.run([installed("initdb"), "-D", data, "-A", "trust", "-U", "berry", "-E", "UTF8", "-N"], **self.how)
        self.control = [installed("pg_ctl"), "-D", data, "-w"]
        self.start()

    def start(self) -> None:
        options = f"-k {self.home} -p {self.port} -c listen_addresses=127.0.0.1 -c fsync=off"
        subprocess.run([*self.control, "-l", self.home / "log", "-o", options, "start"], **self.how)

    def stop(self) -> None:
        """As a server dies: connections break, nothing is written any more."""
        subprocess.run([*self.control, "-m", "immediate", "stop"], **self.how)

    def number(self, question: str) -> int:
        command = [installed("psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", "berry", "-d", "postgres", "-Atc", question]
        return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@pytest.fixture
def server():
    server = Server()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.home, ignore_errors=True)


def test_postgres_passes_the_suite_that_sqlite_passes(server):
    command = ["cargo", "test", "--locked", "-p", "berry-ledger", "--test", "integration", "suite"]
    address = f"host=127.0.0.1 port={server.port} user=berry sslmode=disable"
    result = subprocess.run(
        command, cwd=ROOT, env=environment(BERRY_TEST_POSTGRES=address), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == 0, result.stdout
    assert " 0 failed" in result.stdout and "running 0 tests" not in result.stdout, result.stdout


def ledger(gateway: Gateway) -> dict:
    return gateway.request("GET", "/health").json()["ledger"]


def p99(gateway: Gateway, windows: int = 3) -> float:
    """Milliseconds of the 99th percentile; the middle of some windows, since a pause of the machine falls into one of them."""

    def once() -> float:
        times = []
        for _ in range(WINDOW):
            began = time.monotonic()
            assert gateway.chat("demo-model").status == 200
            times.append(time.monotonic() - began)
        return statistics.quantiles(times, n=100)[98] * 1000

    return statistics.median(once() for _ in range(windows))


@pytest.mark.alone
def test_requests_flow_while_the_server_is_away_and_each_has_one_row_when_it_is_back(server, tmp_path, record_property):
    url = f"postgres://berry@127.0.0.1:{server.port}/postgres?sslmode=disable"
    quick = DEMO.replace("first_token_latency_ms = 5, token_latency_ms = 1", "first_token_latency_ms = 1, token_latency_ms = 0")
    gateway = Gateway(f'{quick}\n[ledger]\nbackend = "postgres"\nurl = "{url}"\n', tmp_path)
    gateway.wait_for(lambda: ledger(gateway)["status"] == "ok", 20, "the ledger is there")
    found = {"there": p99(gateway)}
    server.stop()
    found["away"] = p99(gateway)
    gateway.wait_for(lambda: ledger(gateway)["status"] == "behind", 20, "it is told that the server is away")
    assert ledger(gateway)["lag_rows"] > 0
    server.start()
    # It comes and goes while requests flow.
    found["coming back"] = p99(gateway, 1)
    server.stop()
    server.start()
    gateway.wait_for(lambda: ledger(gateway)["status"] == "ok" and ledger(gateway)["lag_rows"] == 0, 60, "every row has arrived")
    asked = 7 * WINDOW
    assert server.number("SELECT count(*) FROM request") == asked
    # A row begins with the counter of its request id: a byte below 128, or two that tell all below 16,384 apart.
    names = "process_id, CASE WHEN get_byte(rest, 0) < 128 THEN substr(rest, 1, 1) ELSE substr(rest, 1, 2) END"
    assert server.number(f"SELECT count(DISTINCT ({names})) FROM request JOIN shape ON shape.id = shape_id") == asked
    answer = gateway.request("GET", "/admin/usage?group_by=model", token=TOKEN).json()
    assert [group["requests"] for group in answer["groups"]] == [asked], "sums are those of the rows"
    gateway.stop()
    for name, milliseconds in found.items():
        record_property(f"p99 with the server {name}, ms", round(milliseconds, 1))
    assert found["away"] - found["there"] < 5
