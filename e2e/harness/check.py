"""`berry-api` as a command that ends: `--check-config` and the like."""

import subprocess
from pathlib import Path

from .paths import BINARY, environment


def run(*arguments, cwd: Path, **env: str) -> subprocess.CompletedProcess:
    """Runs the server binary to its end, at most 20 s. Standard output and error come together in `stdout`."""
    return subprocess.run(
        [BINARY, *arguments],
        cwd=cwd,
        env=environment(**env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=20,
    )


def accepted(path: Path, cwd: Path) -> None:
    """Checks that `--check-config` accepts the file."""
    answer = run("--check-config", "--config", path, cwd=cwd)
    assert answer.returncode == 0, f"{answer.stdout}\n--- the file:\n{path.read_text()}"
