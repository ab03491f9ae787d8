"""The ledger: no row is lost or doubled when the process is killed, and nothing that happens to it stops requests."""

import asyncio
import csv
import io
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import time

import pytest

from harness.gateway import DEMO, TOKEN, Gateway
from harness.paths import BINARY, environment

#: How often the process is killed. 200 for the figure in docs/reliability.md.
KILLS = int(os.environ.get("BERRY_LEDGER_KILLS", "20"))
#: Connections of the load; each asks again as soon as it is answered.
CLIENTS = 24
CLI = BINARY.with_name("berry-cli")


def whole(raw: bytes) -> bool:
    """Whether an answer of the gateway came to its end: the declared length, or the end of a stream."""
    head, _, body = raw.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        return False
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) == int(value)
    return b"data: [DONE]" in body


async def load(port: int, prefix: str, answered: list[str]) -> None:
    """Clients that ask until nobody answers any more. Notes the names of requests whose answer was complete."""

    async def client(number: int) -> None:
        for turn in range(100_000):
            name = f"{prefix}-{number}-{turn}"
            stream = (number + turn) % 2 == 0
            ask = {"model": "demo-model", "stream": stream, "max_tokens": 6, "messages": [{"role": "user", "content": "x"}]}
            body = json.dumps(ask).encode()
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nx-request-id: {name}\r\n"
                f"connection: close\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            raw = b""
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(head.encode() + body)
                while part := await reader.read(65536):
                    raw += part
                writer.close()
            except OSError:
                pass
            if whole(raw):
                answered.append(name)
            elif not raw:
                return

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))


def rows(gateway: Gateway, **query: str) -> list[dict]:
    """Every row, by pages."""
    found, cursor = [], ""
    while True:
        asked = "&".join(f"{name}={value}" for name, value in {"limit": "1000", **query}.items())
        answer = gateway.request("GET", f"/admin/usage?{asked}{cursor}", token=TOKEN)
        assert answer.status == 200, answer.body
        page = answer.json()
        found += page["rows"]
        if not page["next_cursor"]:
            return found
        cursor = f"&cursor={page['next_cursor']}"


@pytest.mark.alone
def test_a_kill_at_any_moment_loses_and_doubles_no_row_of_a_complete_answer(tmp_path, record_property):
    chance = random.Random(46)
    answered: list[str] = []
    starts = []
    for kill in range(KILLS):
        began = time.monotonic()
        gateway = Gateway(DEMO, tmp_path)
        starts.append(time.monotonic() - began)

        async def killed(gateway=gateway, kill=kill) -> None:
            running = asyncio.ensure_future(load(gateway.port, f"k{kill}", answered))
            await asyncio.sleep(chance.uniform(0.02, 0.6))
            gateway.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(gateway.process.wait)
            await running

        asyncio.run(killed())
    gateway = Gateway(DEMO, tmp_path)
    assert len(answered) > KILLS * 10, "the load was no load"

    def caught_up() -> list[dict] | None:
        found = rows(gateway)
        return found if set(answered) <= {row["client_request_id"] for row in found} else None

    found = gateway.wait_for(caught_up, 30, "every complete answer has a row")
    names = [row["client_request_id"] for row in found]
    assert len(names) == len(set(names)), "no request has two rows"
    assert len({row["request_id"] for row in found}) == len(found)
    gateway.stop()
    with sqlite3.connect(tmp_path / "data" / "ledger.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    record_property("kills", KILLS)
    record_property("complete answers", len(answered))
    record_property("rows", len(found))
    record_property("slowest start, s", round(max(starts), 3))
    assert max(starts) < 1.0


def test_a_shutdown_leaves_nothing_behind_in_the_journal(tmp_path):
    gateway = Gateway(DEMO, tmp_path)
    for _ in range(20):
        assert gateway.chat("demo-model").status == 200
    gateway.stop()
    with sqlite3.connect(tmp_path / "data" / "ledger.db") as database:
        assert database.execute("select count(*) from request").fetchone() == (20,)


def test_a_full_disk_stops_no_request_and_what_is_lost_is_counted(tmp_path):
    # No file may grow beyond this. The log of the test is one of them, so it says little.
    limit = 64 << 10

    def bounded() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    gateway = Gateway(DEMO, tmp_path, preexec_fn=bounded, RUST_LOG="off")
    for _ in range(600):
        assert gateway.chat("demo-model").status == 200
    ledger = gateway.request("GET", "/health").json()["ledger"]
    assert ledger["status"] in ("behind", "losing") and ledger["reason"], ledger
    page = gateway.request("GET", "/prometheus").body.decode()
    assert "berry_ledger_rows_dropped_total" in page
    gateway.process.kill()
    gateway.process.wait()


def test_a_damaged_database_is_put_aside_and_the_log_says_so(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ledger.db").write_bytes(bytes(range(256)) * 64)
    gateway = Gateway(DEMO, tmp_path)
    try:
        gateway.wait_for(lambda: "the ledger goes on, but not with all that it had" in gateway.log(), 20, "a line in the log")
        told = gateway.request("GET", "/health").json()["ledger"]
        assert told["status"] == "ok" and "ledger.db.damaged-" in told["reason"], told
        assert str(tmp_path) not in told["reason"], "where files lie is nobody else's affair"
    finally:
        gateway.stop()


def test_the_command_line_shows_sums_rows_and_tables(tmp_path):
    gateway = Gateway(DEMO, tmp_path)
    for _ in range(3):
        assert gateway.chat("demo-model").status == 200

    def usage(*arguments: str) -> str:
        command = [CLI, "usage", "--url", gateway.url, "--token", TOKEN, *arguments]
        return subprocess.run(command, env=environment(), stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout

    assert json.loads(usage("--json"))["rows"][0]["model"] == "demo-model"
    (group,) = json.loads(usage("--group-by", "user,day", "--json"))["groups"]
    assert (group["requests"], group["group"]["user"]) == (3, "everything")
    table = list(csv.DictReader(io.StringIO(usage("--csv"))))
    assert [row["status"] for row in table] == ["200"] * 3
    assert "demo-model" in usage()
    gateway.stop()
