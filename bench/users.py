#!/usr/bin/env python3
"""Measures what a great many users cost: loading, memory, and requests during a reload.

    cargo build --release -p berry-api
    bench/users.py                   a million users
    bench/users.py --users 100000
    cargo bench -p berry-core --bench users     how long it takes to find one of them

What each figure means stands in docs/performance.md. Needs Linux and Python 3.9.
"""

import argparse
import hashlib
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARY = ROOT / "target" / "release" / "berry-api"
ADMIN = "bench-admin-0123456789abcdef"
FEW = 10
#: Between two requests that look for delays, seconds.
PACE = 0.002

BASE = f"""
[ledger]
backend = "off"
[users.bench_admin]
token = "{ADMIN}"
tags = ["admin"]
[providers.demo]
backend_type = "demo"
[models.demo]
name = "demo"
[[models.demo.backends]]
provider = "demo"
model = "demo-chat"

"""


def token(number: int) -> str:
    return "sk-" + hashlib.sha256(str(number).encode()).hexdigest()[:40]


def write(path: pathlib.Path, users: int) -> None:
    """Users as an operator's script would write them: fifty teams, a few plans."""
    beside = path.with_suffix(".new")
    with open(beside, "w") as file:
        file.write(BASE)
        for number in range(users):
            file.write(
                f'[users.u{number:07}]\nname = "User {number}"\ntoken = "{token(number)}"\n'
                f'allowed_models = ["demo"]\ntags = ["team-{number % 50}"]\n'
                f"[users.u{number:07}.rate_limit]\nrequests_per_minute = {60 * (1 + number % 5)}\n\n"
            )
    beside.chmod(0o600)
    # At once, since the gateway watches the file.
    beside.rename(path)


class Gateway:
    def __init__(self, config: pathlib.Path):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [BINARY, "--config", config, "--bind", f"127.0.0.1:{self.port}"]
        began = time.monotonic()
        self.log = open(config.with_suffix(".log"), "w")
        self.process = subprocess.Popen(command, cwd=config.parent, stdout=self.log, stderr=subprocess.STDOUT)
        while not self.is_ready():
            time.sleep(0.01)
        self.seconds = time.monotonic() - began

    def is_ready(self) -> bool:
        assert self.process.poll() is None, "the gateway ended; see its log"
        try:
            return self.ask(self.connect(), "GET", "/readyz")[0] == 200
        except OSError:
            return False

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(self, connection, method: str, path: str, bearer: str = ADMIN):
        connection.request(method, path, headers={"authorization": f"Bearer {bearer}"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def memory(self, what: str) -> int:
        """`VmRSS` or `VmHWM` in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{what}:\s+(\d+) kB$", status, re.MULTILINE)[1]) * 1024

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(40)
        self.log.close()


class Delays(threading.Thread):
    """Asks again and again, with another user's token each time, and keeps how long each answer took."""

    def __init__(self, gateway: Gateway, users: int):
        super().__init__(daemon=True)
        self.gateway, self.users, self.done, self.taken = gateway, users, threading.Event(), []

    def run(self) -> None:
        connection = self.gateway.connect()
        tokens = [token(number * 7919 % self.users) for number in range(1000)]
        number = 0
        while not self.done.wait(PACE):
            began = time.perf_counter()
            status, _ = self.gateway.ask(connection, "GET", "/v1/models", tokens[number % 1000])
            self.taken.append(time.perf_counter() - began)
            assert status == 200, status
            number += 1

    def figures(self) -> str:
        self.done.set()
        self.join()
        ordered = sorted(self.taken)
        at = lambda share: ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1e3  # noqa: E731
        return f"p50 {at(0.5):.2f} ms, p99 {at(0.99):.2f} ms, longest {ordered[-1] * 1e3:.2f} ms of {len(ordered)}"


def measure(users: int, directory: pathlib.Path) -> None:
    few, many = directory / "few.toml", directory / "many.toml"
    write(few, FEW)
    write(many, users)
    small = Gateway(few)
    bare = small.memory("VmRSS")
    small.stop()
    gateway = Gateway(many)
    print(f"file                        {many.stat().st_size / 2**20:.0f} MiB")
    print(f"start until ready           {gateway.seconds:.2f} s")
    print(f"resident memory a user      {(gateway.memory('VmRSS') - bare) / users:.0f} bytes")
    print(f"peak while loading          {gateway.memory('VmHWM') / 2**20:.0f} MiB")
    quiet = Delays(gateway, users)
    quiet.start()
    time.sleep(5)
    print(f"requests, quiet             {quiet.figures()}")
    write(many, users + 1)
    # The change of the file brings one reload by itself; a second one is asked for and timed.
    time.sleep(1)
    during = Delays(gateway, users)
    during.start()
    began = time.monotonic()
    status, body = gateway.ask(gateway.connect(), "POST", "/admin/reload-config")
    seconds = time.monotonic() - began
    assert status == 200 and json.loads(body)["users"] == users + 2, body
    print(f"reload                      {seconds:.2f} s (waits for one that the changed file began)")
    print(f"requests, during reloads    {during.figures()}")
    print(f"resident memory after it    {(gateway.memory('VmRSS') - bare) / users:.0f} bytes a user")
    print(f"peak with both in memory    {gateway.memory('VmHWM') / 2**20:.0f} MiB")
    gateway.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        measure(arguments.users, pathlib.Path(directory))


if __name__ == "__main__":
    main()
