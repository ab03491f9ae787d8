"""Every fenced block of the documents works, or is listed here with the reason why it cannot be tried.

| block | what is done with it |
|---|---|
| `bash`, `sh`, `console` | run line by line against a server of its own; commands that serve are started, awaited and ended |
| `toml` | completed (a provider that a fragment only names is added) and given to `--check-config` |
| `json` | parsed; one below a heading that names a `GET` path is compared with what the server answers there |
| `text` | nothing: it is no command |

README.md and README.zh-CN.md have comments for each block; test_readme.py runs them in a clone. A block of any other language, and a
line that begins with a program that is not known here, fails the test.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from harness import check
from harness.gateway import PORTS
from harness.paths import BINARY, ROOT, environment

#: Lines that cannot be tried here: a pattern that matches their beginning, and why.
CANNOT = {
    r"docker |GRAFANA_PASSWORD=\S+ docker |kubectl |helm ": "there is no container engine; test_packaging.py checks the files",
    r"promtool ": "test_prometheus.py runs it",
    r"systemctl |journalctl |sudo |install |useradd ": "changes the machine; test_packaging.py checks the unit",
    r"bench/\w+\.py": "measures for minutes; its parts are used by the tests of performance",
    r"cargo (build|bench|test|install|clippy|fmt)\b|scripts/check\.sh": "the checks themselves, of which this is a part",
    r"npm ": "scripts/check.sh dashboard does it",
    r"BERRY_UPDATE_DOCS": "would change the documents that are being tested",
}
#: Programs of lines that are run.
KNOWN = {"berry-api", "berry-cli", "cargo", "curl", "cp", "cd", "export", "jq", "grep", "cat", "kill", "python3", "openssl", "chmod"}
#: Exit codes of lines that are right to say no, by a part of the line.
EXPECTED = {
    "health-check -c config.toml": (0, 1),
    # One of the models there has no price.
    "cost audit": (0, 1),
}
#: TOML that is no configuration of the server: which command reads it.
OTHER_TOML = {
    "cli-tool.md": ["mock", "--script"],
}

BLOCK = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.M | re.S)
TOKEN = "berry-admin-token-12345"

CONFIG = f"""
[settings]
request_timeout_seconds = 20
[users.admin]
name = "Admin"
token = "{TOKEN}"
tags = ["admin"]
[users.team_a]
name = "Team A"
token = "token-of-team-a-in-the-documents"
[providers.openai]
backend_type = "demo"
demo = {{ first_token_latency_ms = 5, token_latency_ms = 1 }}
[providers.mock]
base_url = "http://127.0.0.1:4010/v1"
[models.gpt_4]
name = "gpt-4"
[[models.gpt_4.backends]]
provider = "openai"
model = "gpt-4"
[models.my_model]
name = "my-model"
[[models.my_model.backends]]
provider = "mock"
model = "my-model"
billing_mode = "per_request"
"""


class Block:
    def __init__(self, page: Path, match: re.Match):
        content = match.string
        self.page = page
        self.line = content[: match.start("text")].count("\n") + 1
        self.language = match["language"]
        self.text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
        headings = re.findall(r"^#+ (.*)$", content[: match.start()], re.M)
        self.heading = headings[-1] if headings else ""

    @classmethod
    def of_text(cls, name: str, text: str) -> "Block":
        """Commands that stand in no page of this repository."""
        return cls(Path(name), BLOCK.match(f"```bash\n{text}```"))

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def pages() -> list[Path]:
    readmes = {"README.md", "README.zh-CN.md"}
    top = [page for page in sorted(ROOT.glob("*.md")) if page.name not in readmes]
    return [*top, *sorted((ROOT / "docs").glob("*.md")), ROOT / "e2e" / "README.md"]


def blocks(languages: set[str]) -> list[Block]:
    found = [Block(page, match) for page in pages() for match in BLOCK.finditer(page.read_text())]
    return [block for block in found if block.language in languages]


SHELL, TEXT = {"bash", "sh", "console"}, {"text"}


def test_every_block_is_of_a_kind_that_is_tried():
    known = SHELL | TEXT | {"toml", "json"}
    found = [Block(page, match) for page in pages() for match in BLOCK.finditer(page.read_text())]
    assert found
    unknown = [f"{block} ({block.language or 'no language'})" for block in found if block.language not in known]
    assert not unknown, f"say how these are tried: {unknown}"


# ---------------------------------------------------------------------------------------------------------------- commands


class Place:
    """A folder as the documents have it in mind: the repository's files, a `config.toml`, and a server that runs with it."""

    def __init__(self, directory: Path, start, config: str = CONFIG, **variables: str):
        self.directory = directory
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        for name in {file.split("/")[0] for file in tracked.split("\0") if file} - {"config_example.toml"}:
            (directory / name).symlink_to(ROOT / name)
        self.mock = f"127.0.0.1:{next(PORTS)}"
        self.config = config.replace("127.0.0.1:4010", self.mock)
        self.server = start(self.config, **variables)
        path = f"{BINARY.parent}:{os.environ['PATH']}"
        self.variables = environment(PATH=path, BERRY_TOKEN=TOKEN, BERRY_DATA_DIR=str(directory / "data"))
        self.variables["CARGO_TARGET_DIR"] = str(ROOT / "target")
        self.names = {"…": TOKEN}
        self.here = directory

    def begin(self, block: Block) -> None:
        """Each block starts in the folder, with nothing exported by the one before, and the files that it may count on."""
        self.here, self.exported = self.directory, {}
        for name in ("config.toml", "config_example.toml", "advanced_config.toml"):
            (self.directory / name).unlink(missing_ok=True)
        self.write("config.toml", self.config.replace("[users.admin]", f'[server]\nbind_address = "{self.server.address}"\n[users.admin]'))
        self.write("new.toml", self.config)
        scripts = [other.text for other in blocks({"toml"}) if other.page == block.page and other.page.name in OTHER_TOML]
        if scripts:
            self.write("upstream.toml", scripts[0])

    def write(self, name: str, text: str) -> None:
        (self.directory / name).write_text(text)
        (self.directory / name).chmod(0o600)

    def substituted(self, line: str) -> str:
        line = re.sub(r"(127\.0\.0\.1|localhost):3000", self.server.address, line)
        line = re.sub(r"(127\.0\.0\.1|localhost):4010", self.mock, line).replace("…", TOKEN)
        line = re.sub(r"--rate 500 --seconds \d+", "--rate 50 --seconds 1", line)
        if "req_01HF" in line:
            explained = self.server.request(
                "POST", "/v1/chat/completions", {"model": "gpt-4", "messages": [{"role": "user", "content": "hi"}]}, TOKEN,
                headers={"x-berry-explain": "1"},
            )
            line = line.replace("req_01HF", explained.headers["x-request-id"])
        if "key_0123456789abcdef" in line:
            made = self.server.request("POST", "/admin/keys", {"name": "of the documents"}, TOKEN)
            line = line.replace("key_0123456789abcdef", made.json()["key"]["id"])
        if "ledger-1767312000000000.db" in line:
            # The copy that the line before has made.
            copies = (self.server.log_path.parent / "data" / "backups").glob("ledger-*.db")
            line = re.sub(r"\S*ledger-1767312000000000\.db", str(max(copies)), line)
        line = re.sub(r"^cargo run --release -- ", "berry-api ", line)
        return re.sub(r"^cargo run --release$", "berry-api --config config_simple.toml", line)

    def run(self, block: Block, line: str) -> None:
        line = self.substituted(line)
        words = shlex.split(line, comments=True)
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        program = words[0]
        assert program in KNOWN, f"{block}: neither known nor listed as what cannot be tried: {line}"
        if program == "cd":
            self.here = self.here / words[1]
        elif program == "export":
            self.exported |= dict(re.findall(r"(\w+)=(\S+)", line.split(" #")[0]))
        elif words[:2] == ["berry-cli", "mock"]:
            self.serve(block, line if "--listen" in line else f"{line} --listen {self.mock}", self.mock, path=None)
        elif program == "berry-api" and not {"--check-config", "--health", "--version", "--help"} & set(words):
            address = f"127.0.0.1:{next(PORTS)}"
            self.serve(block, f"{line} --bind {address}", address, path="/readyz")
        else:
            if words[:2] == ["berry-cli", "bench"]:
                with self.serving(block, f"berry-cli mock --listen {self.mock}", self.mock, path=None):
                    self.to_the_end(block, line)
            else:
                self.to_the_end(block, line)

    def to_the_end(self, block: Block, line: str, expected: tuple[int, ...] | None = None, refused: bool = False) -> str:
        """Runs a line that ends, and gives what it said. `refused`: the server is right to answer with an error."""
        variables = self.variables | self.exported
        if " --health" in line:
            variables["BIND_ADDRESS"] = self.server.address
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\n{line}"], cwd=self.here, env=variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
        )
        right = expected or next((codes for part, codes in EXPECTED.items() if part in line), (0,))
        assert done.returncode in right, f"{block}: status {done.returncode}: {line}\n{done.stdout}"
        if "curl" in line:
            assert ('"error":' in done.stdout) == refused, f"{block}: {line}\n{done.stdout}"
        return done.stdout

    def serving(self, block: Block, line: str, address: str, path: str | None):
        return Serving(self, block, line, address, path)

    def serve(self, block: Block, line: str, address: str, path: str | None) -> None:
        with self.serving(block, line, address, path):
            pass


class Serving:
    """A command that runs until it is interrupted, awaited until it answers."""

    def __init__(self, place: Place, block: Block, line: str, address: str, path: str | None):
        self.block, self.line, self.url = block, line, f"http://{address}{path or '/v1/models'}"
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=place.here, env=place.variables | place.exported, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )

    def __enter__(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return self
            except urllib.error.HTTPError:
                return self
            except OSError:
                # Ends early when the process does.
                try:
                    self.process.wait(0.05)
                except subprocess.TimeoutExpired:
                    pass
        self.process.kill()
        raise AssertionError(f"{self.block}: does not answer: {self.line}\n{self.process.communicate()[0]}")

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=40)
        assert self.process.returncode == 0, f"{self.block}: status {self.process.returncode}: {self.line}\n{said}"


@pytest.fixture(scope="module")
def place(start, tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("documents"), start)


def lines(block: Block) -> list[str]:
    """Commands, each in one line. Of `console` only what follows a prompt."""
    joined = re.sub(r"\\\n\s*", " ", block.text)
    # A quotation that goes over several lines belongs to one command.
    found, open_quotes = [], ""
    for line in joined.splitlines():
        line = f"{open_quotes}\n{line}" if open_quotes else line
        try:
            shlex.split(line, comments=True)
        except ValueError:
            open_quotes = line
            continue
        open_quotes = ""
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        if line.strip() and not line.lstrip().startswith("#"):
            found.append(line.strip())
    assert not open_quotes, f"{block}: a quotation does not end"
    return found


@pytest.mark.parametrize("block", blocks(SHELL), ids=str)
def test_commands_of_the_documents_work(block, place):
    place.begin(block)
    for line in lines(block):
        if not any(re.match(pattern, line) for pattern in CANNOT):
            place.run(block, line)


# ----------------------------------------------------------------------------------------------------- configurations, JSON


def completed(text: str) -> str:
    """The fragment with what it counts on: users, and providers that it only names."""
    given = tomllib.loads(text)
    named = {
        backend["provider"]
        for model in given.get("models", {}).values()
        for backend in model.get("backends", [])
        if "provider" in backend
    }
    missing = named - set(given.get("providers", {}))
    added = "".join(f'\n[providers.{name}]\nbackend_type = "demo"\n' for name in sorted(missing))
    # A fragment may end in a table, so what is added stands in tables too.
    users = "" if "users" in given else '\n[users.reader]\ntoken = "token-of-a-reader-of-the-documents"\ntags = ["admin"]\n'
    return text + added + users


@pytest.mark.parametrize("block", blocks({"toml"}), ids=str)
def test_configurations_of_the_documents_are_right(block, tmp_path):
    path = tmp_path / "shown.toml"
    if block.page.name in OTHER_TOML:
        path.write_text(block.text)
        address = f"127.0.0.1:{next(PORTS)}"
        place = type("Here", (), {"here": tmp_path, "variables": environment(), "exported": {}})()
        command = shlex.join([str(BINARY.parent / "berry-cli"), *OTHER_TOML[block.page.name], str(path), "--listen", address])
        with Serving(place, block, command, address, None):
            return
    path.write_text(completed(block.text))
    path.chmod(0o600)
    for name in re.findall(r'"([\w./-]+\.toml)"', block.text):
        (tmp_path / name).write_text("")
    values = {name: "a-value-for-the-test-of-documents" for name in re.findall(r"\$\{(\w+)[}:]", block.text)}
    answer = check.run("--check-config", "--config", path, cwd=tmp_path, **values)
    assert answer.returncode == 0, f"{block}\n{answer.stdout}\n--- the file:\n{path.read_text()}"


#: Tables whose keys are names of the configuration.
BY_NAME = {"models", "backend_health", "model_stats", "weight_distribution", "providers", "users"}


def assert_described(shown, answered, where: str) -> None:
    """Whatever the sample shows is in the answer, with values of the same kind."""
    if isinstance(shown, dict):
        assert isinstance(answered, dict), f"{where}: {answered!r}"
        if where.split(".")[-1] in BY_NAME and answered:
            shown, answered = {"*": next(iter(shown.values()))}, {"*": next(iter(answered.values()))}
        for key, value in shown.items():
            assert key in answered, f"{where}: the server does not answer {key!r}, but {sorted(answered)}"
            assert_described(value, answered[key], f"{where}.{key}")
    elif isinstance(shown, list) and shown and answered:
        assert_described(shown[0], answered[0], f"{where}[0]")


@pytest.mark.parametrize("block", blocks({"json"}), ids=str)
def test_json_of_the_documents_is_what_the_server_answers(block, place):
    shown = json.loads(block.text)
    path = re.search(r"`GET (/[^`{?]+)`", block.heading)
    if path is None:
        return
    answer = place.server.request("GET", path[1], token=TOKEN)
    assert answer.status == 200, f"{block}: {path[1]} {answer.body[:300]}"
    assert_described(shown, answer.json(), str(block))
