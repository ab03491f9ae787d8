"""Runs the commands of the README files.

Each block fenced as `bash` stands directly after a comment that says what becomes of it:

    <!-- test: server -->                 started in the background, awaited, and stopped when the file is done
    <!-- test: run -->                    must exit with 0
    <!-- test: run, prints: TEXT -->      must also print TEXT
    <!-- test: skip, REASON -->           not run here

A block without a comment is an error, so that no command goes untested unseen. Commands run at the root of the
repository; the address 127.0.0.1:3000 (or localhost:3000) is replaced by one that is free.
"""

import os
import re
import signal
import subprocess
from dataclasses import dataclass

import pytest

from harness.gateway import PORTS
from harness.paths import ROOT, environment

BLOCK = re.compile(r"^(?:<!-- test: ([a-z]+)(?:, (?:prints: )?(.*?))? -->\n)?```(?:bash|sh|shell|console)\n(.*?)^```", re.M | re.S)


@dataclass
class Block:
    line: int
    kind: str | None
    detail: str | None
    script: str


def blocks(path) -> list[Block]:
    text = path.read_text()
    return [Block(text[: m.start(3)].count("\n") + 1, m[1], m[2], m[3]) for m in BLOCK.finditer(text)]


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_every_command_works(name, tmp_path):
    path = ROOT / name
    found = blocks(path)
    assert found, f"{name} shows no command"
    unmarked = [block.line for block in found if block.kind not in ("server", "run", "skip")]
    assert not unmarked, f"{name}: blocks without a test comment at lines {unmarked}; the docstring of test_readme.py says how"

    address = f"127.0.0.1:{next(PORTS)}"
    env = environment(BIND_ADDRESS=address, BERRY_DATA_DIR=str(tmp_path))
    if (ROOT / "config.toml").exists():
        # A developer's own file must not stand in for the example.
        env["CONFIG_PATH"] = "config-example.toml"
    servers = []
    try:
        for block in found:
            script = "set -euo pipefail\n" + re.sub(r"(127\.0\.0\.1|localhost):3000", address, block.script)
            where = f"{name}:{block.line}"
            if block.kind == "server":
                servers.append(start(script, env, address, where))
            elif block.kind == "run":
                run = subprocess.run(
                    ["bash", "-c", script], cwd=ROOT, env=env, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
                )  # fmt: skip
                assert run.returncode == 0, f"{where}: status {run.returncode}\n{run.stdout}"
                assert (block.detail or "") in run.stdout, f"{where}: does not print {block.detail!r}\n{run.stdout}"
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(60)


def start(script: str, env: dict[str, str], address: str, where: str) -> subprocess.Popen:
    """Starts a server block in a process group of its own and waits until it is ready."""
    server = subprocess.Popen(["bash", "-c", script], cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True)
    ready = ["curl", "-sf", "--retry", "600", "--retry-delay", "1", "--retry-connrefused", "--max-time", "300", "-o", os.devnull]
    if subprocess.run([*ready, f"http://{address}/readyz"]).returncode != 0:
        os.killpg(server.pid, signal.SIGKILL)
        raise AssertionError(f"{where}: no server became ready at {address}")
    return server
