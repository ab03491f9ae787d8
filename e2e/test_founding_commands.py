"""The shell, curl, grep and jq lines of the founding documents, against a real server and its real log.

Every block of commands is run line by line in a folder that looks as those documents have it in mind: the repository's files, a
`config.toml`, and `logs/berry-api.log`, which the server writes that the lines ask. A line is run unless a pattern of `CANNOT` or
`NO_COMMAND` matches its beginning, and must end with status 0; so a line that nobody thought of fails. As in
test_founding_samples.py, the documents are looked for in BERRY_SEEDS or ../shared/seeds.
"""

import re
import shlex

import pytest

from harness.gateway import PORTS, TOKEN
from harness.paths import BINARY, ROOT
from test_docs_commands import Block, Place
from test_founding_samples import collect

#: Lines that cannot be tried here: a pattern that matches their beginning, and why.
CANNOT = {
    r"git clone |cd berry-api": "there is no network; the folder is the clone",
    r"git commit ": "would commit",
    r"vim ": "an editor",
    r"(sudo )?docker|docker-compose ": "there is no container engine; test_packaging.py checks the files",
    r"\./scripts/build-precompiled-docker\.sh": "needs a container engine; test_packaging.py runs its help",
    r"cargo (build|test|check|clippy|fmt)\b": "what scripts/check.sh does, of which this is a part",
    r"cargo run --example ": "the step `examples` of scripts/check.sh",
    r"\./scripts/check\.sh": "this is a part of it",
    r"cargo tarpaulin ": "a tool for coverage that is not ours",
    r"cp target/x86_64-unknown-linux-gnu/": "what a build for another target leaves, which is not made here",
    r"sudo |ufw |iptables |rustup ": "changes the machine",
    r"curl --proto ": "installs Rust from the network",
    r"curl (-I )?https://api\.openai\.com": "there is no network",
    r"export OPENAI_API_KEY=\$\(vault ": "there is no vault",
    r"inotifywait ": "waits for ever, and is no program of ours",
    r"htop ": "needs a terminal; the line before it is `top`",
}
#: What stands in blocks of commands and is none.
NO_COMMAND = [
    r"Authorization: Bearer ",  # a header
    r"✅|- \d+ \w+ configured",  # what a command prints; test_cli.py compares it
    r"\[features\]|default = |observability = ",  # a piece of Cargo.toml
    r"(CPU|内存|磁盘|网络): |Ubuntu |CentOS |Debian ",  # what a machine should have
    r"(feat|fix|docs|style|refactor|test|chore): ",  # kinds of commits
]
#: Lines that are refused, and why that is right.
REFUSED = {r"curl http://localhost:3000/admin/\S+$": "specification 4: the admin API needs an administrator's token"}
#: Exit codes of lines that may say no.
EXPECTED = {'grep -r "sk-" config/': (0, 1)}

CONFIG = f"""
[settings]
health_check_interval_seconds = 1
[telemetry]
log_file = "LOG"
[users.admin]
name = "Admin"
token = "{TOKEN}"
tags = ["admin"]
[users.documents]
token = "berry-admin-token-12345"
[users.simple]
token = "berry-admin-123456"
[users.reader]
token = "berry-user-789012"
[providers.openai]
backend_type = "demo"
demo = {{ first_token_latency_ms = 5, token_latency_ms = 1 }}
[models.gpt_4]
name = "gpt-4"
[[models.gpt_4.backends]]
provider = "openai"
model = "gpt-4"
"""

BLOCKS = collect(r"^ *```bash\n(.*?)^ *```", re.DOTALL)


class Founding(Place):
    """The folder, with a server whose log has everything that the documents look for."""

    def __init__(self, directory, start):
        log = directory / "logs" / "berry-api.log"
        log.parent.mkdir()
        super().__init__(directory, start, CONFIG.replace("LOG", str(log)), RUST_LOG="debug")
        self.variables |= {"BERRY_URL": self.server.url, "BERRY_API": str(BINARY)}
        self.server.request("GET", "/v1/models", token="wrong").error(401)
        assert self.server.chat("gpt-4").status == 200
        file = self.server.log_path.parent / "gateway.toml"
        good = file.read_text()
        file.write_text("[settings]\nno_such_key = 1\n")
        assert self.server.request("POST", "/admin/reload-config", {}, TOKEN).status >= 400
        file.write_text(good)
        for words in ("health_check", "Authentication failed", "selected backend", "Backend selected", '"level":"ERROR"'):
            self.server.wait_for(lambda words=words: words in log.read_text(), 20, f"the log has {words}")

    def begin(self, block: Block) -> None:
        super().begin(block)
        (self.directory / "config.toml.backup").write_text((self.directory / "config.toml").read_text())

    def substituted(self, line: str) -> str:
        line = re.sub(r"localhost:3000", self.server.address, line)
        line = line.replace(":3000", f":{self.server.port}")
        line = re.sub(r"Bearer (your-token-here|admin-token|token)(?=\")", f"Bearer {TOKEN}", line)
        line = re.sub(r"/path/to/(your/)?config\.toml", "config.toml", line).replace("$(pgrep berry-api)", str(self.server.process.pid))
        # Another block writes a file of that name, so the repository's own is no part of the folder.
        line = line.replace("cp config_example.toml", f"cp {ROOT}/config_example.toml")
        line = line.replace("./debug_demo.sh", f"BIND_ADDRESS=127.0.0.1:{next(PORTS)} ./debug_demo.sh")
        line = re.sub(r"^top ", "top -b -n 1 ", line).replace("-t12 -c400 -d30s", "-t1 -c4 -d1s")
        return re.sub(r"(cargo run( --)?|\./target/release/berry-api)(?=$| )", "berry-api", line)

    def run(self, block: Block, line: str) -> None:
        shown, line = line, self.substituted(line)
        words = shlex.split(line, comments=True)
        while words and re.match(r"\w+=", words[0]):
            words.pop(0)
        if line.startswith("export "):
            self.exported |= dict(re.findall(r'(\w+)="?([^\s"]+)', line.split(" #")[0]))
        elif words == ["berry-api"]:
            address = f"127.0.0.1:{next(PORTS)}"
            self.serve(block, f"env {line} --bind {address}", address, path="/readyz")
        else:
            refused = any(re.match(pattern, shown) for pattern in REFUSED)
            expected = next((codes for start, codes in EXPECTED.items() if shown.startswith(start)), (0,))
            said = self.to_the_end(block, line, expected=expected, refused=refused)
            if shown.startswith("grep ") and "logs/" in shown:
                assert said.strip(), f"{block}: found nothing: {line}"


@pytest.fixture(scope="module")
def place(start, tmp_path_factory) -> Founding:
    return Founding(tmp_path_factory.mktemp("founding"), start)


def commands(text: str) -> list[str]:
    """Commands, each with all its lines: continuations, quotations and loops belong together."""
    found, begun = [], ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = f"{begun}\n{line}" if begun else line.strip()
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            begun = line
            continue
        begun = line if words[:1] == ["for"] and words[-1] != "done" else ""
        if words and not begun:
            found.append(line)
    assert not begun, begun
    return found


def is_tried(line: str) -> bool:
    return not any(re.match(pattern, line) for pattern in [*CANNOT, *NO_COMMAND])


@pytest.mark.parametrize("text", BLOCKS)
def test_commands_of_the_founding_documents_work(text, place, request):
    block = Block.of_text(request.node.name, text)
    place.begin(block)
    for line in commands(text):
        if is_tried(line):
            place.run(block, line)


def test_nothing_is_listed_that_the_documents_do_not_have(record_property):
    if BLOCKS[0].values[0] is None:
        pytest.skip("no documents")
    lines = [line for block in BLOCKS for line in commands(block.values[0])]
    for pattern in [*CANNOT, *NO_COMMAND, *REFUSED]:
        assert any(re.match(pattern, line) for line in lines), pattern
    record_property("lines that are run", sum(map(is_tried, lines)))
    record_property("lines that cannot run here", sum(any(re.match(pattern, line) for pattern in CANNOT) for line in lines))
