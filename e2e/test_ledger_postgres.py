"""The ledger's suite against a real PostgreSQL server, the same that a plain `cargo test` runs against SQLite."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.paths import ROOT, environment


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


@pytest.fixture
def server():
    """A server that keeps nothing; it refuses to run as root, so root lends it the user `postgres`."""
    who = {"user": "postgres"} if os.getuid() == 0 else {}
    home = Path(tempfile.mkdtemp(prefix="berry-postgres-"))
    if who:
        shutil.chown(home, "postgres")
    data, port = home / "data", free_port()
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": home, **who}
    subprocess.run([installed("initdb"), "-D", data, "-A", "trust", "-U", "berry", "-E", "UTF8", "-N"], **run)
    options = f"-k {home} -p {port} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [installed("pg_ctl"), "-D", data, "-w"]
    subprocess.run([*control, "-l", home / "log", "-o", options, "start"], **run)
    try:
        yield f"host=127.0.0.1 port={port} user=berry sslmode=disable"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], **run)
        shutil.rmtree(home, ignore_errors=True)


def test_postgres_passes_the_suite_that_sqlite_passes(server):
    command = ["cargo", "test", "--locked", "-p", "berry-ledger", "--test", "integration", "suite"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(BERRY_TEST_POSTGRES=server), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert result.returncode == 0, result.stdout
    assert " 0 failed" in result.stdout and "running 0 tests" not in result.stdout, result.stdout
