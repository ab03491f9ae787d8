"""Runs what the README files show.

Each fenced block of `bash`, `python`, `javascript` or `toml` stands directly after a comment that names it:

    <!-- test: NAME -->                   run; it must exit with 0 (a `toml` block must pass `--check-config`)
    <!-- test: NAME, prints: TEXT -->     and must print TEXT
    <!-- test: server -->                 started in the background, awaited, and stopped when the file is done
    <!-- test: skip, REASON -->           not run here

A block without a comment is an error, so that nothing goes untested unseen. Blocks run in their order, in a directory that
looks like a fresh clone: the repository's files without the ones that git ignores. The address 127.0.0.1:3000 (or
localhost:3000) is replaced by one that is free.
"""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import check
from harness.gateway import PORTS
from harness.paths import HOME, ROOT, environment

COMMENT = r"<!-- test: (?P<name>[a-z0-9-]+)(?:, (?P<detail>.*?))? -->\n"
BLOCK = re.compile(rf"^(?:{COMMENT})?```(?P<language>bash|python|javascript|toml)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass
class Block:
    where: str
    name: str | None
    detail: str
    language: str
    text: str


def blocks(path: Path) -> list[Block]:
    content = path.read_text()
    return [
        Block(
            f"{path.name}:{content[: match.start('text')].count(chr(10)) + 1}",
            match["name"],
            match["detail"] or "",
            match["language"],
            match["text"],
        )
        for match in BLOCK.finditer(content)
    ]


class Clone:
    """A directory like a fresh clone, and how to run a block in it. Compiled files are shared with the repository."""

    def __init__(self, directory: Path):
        self.directory = directory
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        for name in {file.split("/")[0] for file in tracked.split("\0") if file}:
            (directory / name).symlink_to(ROOT / name)
        self.address = f"127.0.0.1:{next(PORTS)}"
        data = str(directory / "data")
        self.env = environment(BIND_ADDRESS=self.address, BERRY_DATA_DIR=data, CARGO_TARGET_DIR=str(ROOT / "target"))
        self.servers = []

    def run(self, block: Block) -> None:
        text = re.sub(r"(127\.0\.0\.1|localhost):3000", self.address, block.text)
        if block.name == "server":
            self.start(block, text)
            return
        if block.language == "toml":
            path = self.directory / "shown.toml"
            path.write_text(text)
            values = {name: "a-value-for-the-test" for name in re.findall(r"\$\{(\w+)\}", text)}
            answer = check.run("--check-config", "--config", path, cwd=self.directory, **values)
        else:
            answer = subprocess.run(
                self.command(block.language, text),
                cwd=self.directory,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=300,
            )
        assert answer.returncode == 0, f"{block.where}: status {answer.returncode}\n{answer.stdout}"
        wanted = block.detail.removeprefix("prints: ")
        assert wanted in answer.stdout, f"{block.where}: does not print {wanted!r}\n{answer.stdout}"

    @staticmethod
    def command(language: str, text: str) -> list[str]:
        if language == "bash":
            return ["bash", "-c", f"set -euo pipefail\n{text}"]
        if language == "python":
            return [sys.executable, "-c", text]
        # Beside node_modules, because an ES module finds its packages from where it lies.
        script = HOME / f"shown-{os.getpid()}.mjs"
        script.write_text(text)
        return ["node", str(script)]

    def start(self, block: Block, text: str) -> None:
        server = subprocess.Popen(
            self.command("bash", text), cwd=self.directory, env=self.env, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self.servers.append(server)
        # Long enough for `cargo run` to build; a server that ends is noticed at once.
        for _ in range(1500):
            try:
                with urllib.request.urlopen(f"http://{self.address}/readyz", timeout=5):
                    return
            except OSError:
                pass
            try:
                raise AssertionError(f"{block.where}: the server ended with status {server.wait(0.2)}")
            except subprocess.TimeoutExpired:
                pass
        raise AssertionError(f"{block.where}: no server became ready at {self.address}")

    def close(self) -> None:
        for server in self.servers:
            # To the whole process group, as Ctrl-C at a terminal does.
            os.killpg(server.pid, signal.SIGINT)
            server.wait(60)
        (HOME / f"shown-{os.getpid()}.mjs").unlink(missing_ok=True)


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_everything_shown_works(name, tmp_path):
    shown = blocks(ROOT / name)
    assert shown, f"{name} shows nothing"
    unnamed = [block.where for block in shown if block.name is None]
    assert not unnamed, f"blocks without a test comment, see the docstring of test_readme.py: {unnamed}"
    clone = Clone(tmp_path)
    try:
        for block in shown:
            if block.name != "skip":
                clone.run(block)
    finally:
        clone.close()
